"""What activations are rounded to where they meet a packed weight: the route of each format on each ISA.

bf16: the weight is expanded to bf16 next to the multiplication. int16, int8: a sum of whole numbers for each 32 of k,
of nested formats for each 256 (integer.h); the format must be `whole`. A route is the same for any number of rows, as a
row's bits must be.

Measured on one core of an AMD EPYC (Zen 4, 2026-11) from L2, `int16` beside `bf16`, in bytes of weights a cycle at one
row (memory gives 7) and in shares of the peak of VDPBF16PS, of FMA on AVX2, at 64 rows (nested formats were then scaled
for each 32 of k; scaled for each 256, q4_k and q6_k multiply 64 rows 1.15 times as fast):

              AVX-512, 1 row  64 rows      AVX2, 1 row   64 rows
    q8_0      17.0    4.9     80%  85%     9.7    2.0    121%  82%
    q4_0      11.2    2.4     81%  85%     5.5    1.0    122%  82%
    q4_k       9.7    2.1     76%  83%     4.9    1.0    113%  81%
    q5_k       8.7    2.3     76%  82%     5.0    1.1    112%  80%
    q6_k      10.6    3.1     78%  83%     5.6    1.3    119%  81%
    mxfp4      9.1    6.8     81%  89%     4.4    1.6    123%  86%

And on one of a Xeon with AMX (480 MiB of L3), in GB/s at one row (memory gives 16 to 21 to a core) and TFLOP/s:

              1 row         16 rows      32 rows      64 rows      256 rows
    q4_k      36    4.9     0.22  0.27   0.43  0.47   0.50  0.77   0.56  1.28
    q6_k      39    7.0     0.23  0.27   0.47  0.50   0.62  0.79   0.76  1.34
    q4_1      44    5.3     0.24  0.27   0.31  0.50   0.34  0.78   0.35  1.31
    iq4_nl    37    7.0     0.25  0.40   0.36  0.53   0.39  0.82   0.39  1.36
    q8_0      86   13.5     0.24  0.40   0.33  0.54   0.38  0.83   0.37  1.40

On one of another such Xeon (2.7 GHz, 300 MiB of L3), ns a tile of 512 weights:

    mxfp4      9.1   23.9     65  24      125  34      243  51      966  154

Of whole numbers, 32 rows and more have since taken 0.75 (plain formats) to 0.95 (q4_k) of that time.

Two to seven times the speed of a token outweigh a tenth of a prompt's, and half of it or more: a token of an answer of
Q4_K saves as much time as 40 of a prompt cost, of IQ4_NL as 14. Q8_0 in bf16 reads two thirds of what memory gives
already, so that a token would save no more than six cost, and one of MXFP4, which a prompt in bf16 runs through in a
sixth of the time, saves what five do, and of 16 sequences nothing: these stay in bf16 on AMX. `int8` is faster, but
rounds activations more than bf16 does, so it is never chosen unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ellm.kernels.contract import INT8, INT16
from ellm.kernels.format import Format
from ellm.system.errors import InputError

ACTIVATIONS = {"bf16": 0, "int16": INT16, "int8": INT8}
"""By name, as arguments of kernels have them."""


@dataclass(frozen=True)
class Route:
    """What activations are rounded to, and why, in a few words."""

    activations: str
    reason: str


_DEFAULT = {
    "amx": Route("int16", "tokens are several times as fast on amx, prompts slower"),
    "avx512": Route("int16", "faster on avx512"),
    "avx512f": Route("int16", "faster on avx512f"),
    "avx2": Route("int16", "faster on avx2"),
    "portable": Route("int16", "faster on portable"),
}
"""For each ISA, of formats that are whole."""
_IN_BF16_ON_AMX = ("q8_0", "mxfp4", "mxfp4_gguf")
_BF16_ON_AMX = Route("bf16", "int16 costs more of a prompt than it saves of a token on amx")

Routes = Callable[[Format], int]
"""What activations that meet a format are rounded to, a value of ACTIVATIONS."""


def choose(format: Format, isa: str, asked: str | None = None) -> Route:
    """The route of a format: what is `asked` for where the format can be multiplied so, else the table's."""
    if not format.whole:
        return Route("bf16", "the only one of this format")
    if not asked and isa == "amx" and format.name in _IN_BF16_ON_AMX:
        return _BF16_ON_AMX
    return Route(asked, "asked for") if asked else _DEFAULT[isa]


def routes(isa: str, asked: str | None = None) -> Routes:
    """All routes on an ISA. Raises InputError if what is asked for is unknown."""
    if asked is not None and asked not in ACTIVATIONS:
        raise InputError(f"activations {asked!r} are unknown: choose one of {', '.join(ACTIVATIONS)}")
    return lambda format: ACTIVATIONS[choose(format, isa, asked).activations]


def in_bf16(format: Format) -> int:
    """The routes that every format has."""
    return ACTIVATIONS["bf16"]
