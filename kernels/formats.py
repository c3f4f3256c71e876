"""The formats of packed weights: the only place where what is so of one of them stands. format.py is about all of them.

C sees these facts by formats.h, which generate.py makes; expand.h and expand_blocks.h have the code that expands each
format to bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ellm.kernels.bf12 import HighBytes
from ellm.kernels.format import BLOCK_K, BLOCK_TILES, Format, Stored
from ellm.kernels.gguf_blocks import BLOCKS
from ellm.kernels.layout import from_bf16

__all__ = [
    "BLOCK_K",
    "BLOCK_TILES",
    "DTYPES",
    "FORMATS",
    "MADE",
    "NUMBERED",
    "PLAIN",
    "RAW",
    "Format",
    "Stored",
    "packings",
    "stored_format",
]


def _e4m3() -> np.ndarray:
    """The 256 numbers of FP8 E4M3 (Micikevicius et al., 2022): no infinities, NaN is 0x7f."""
    exponent, mantissa = np.arange(128) >> 3, np.arange(128) & 7
    values = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    values[127] = np.nan
    return np.concatenate((values, -values)).astype(np.float32)


E4M3 = _e4m3()
"""Code to float32."""

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Code of a 4-bit float (OCP Microscaling Formats, 2023) to float32."""


def e8m0(codes: np.ndarray) -> np.ndarray:
    """2^(code - 127) as float32; infinite for 255."""
    return np.where(codes == 0, 1 << 22, codes.astype(np.uint32) << 23).astype(np.uint32).view(np.float32)


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""Code of IQ4_NL and IQ4_XS to float32 (ggml/src/ggml-common.h, kvalues_iq4nl)."""


_EXPANDED = "expanded to bf16 with their block scales on the way to the multiplication"
_WHOLE = "multiplied as whole numbers and then scaled, or expanded to bf16 before"
_IN_TERMS = "expanded to f16 with their block scales, as two exact bf16 terms, on the way to the multiplication"


def _from(first: int) -> Callable[[np.ndarray], np.ndarray]:
    """Codes that count up from `first`."""
    return lambda codes: codes.astype(np.float32) + np.float32(first)


def _stored_in_blocks(name: str) -> Stored:
    return Stored(name, "u1", blocks=BLOCKS[name])


def _of_gguf() -> list[Format]:
    """The formats of GGUF's blocks, named as there. Codes of Q8_0 have their sign bit turned."""
    plain: dict[str, Any] = {"k_per_scale": 32, "scale": np.dtype(np.float16)}
    added = plain | {"minimum": np.dtype(np.float16)}
    nested = {"nested": True, "k_per_block": 256, "scale": np.dtype(np.int8)}
    eights = nested | {"k_per_scale": 32, "most_scale": 63}
    sixteens = nested | {"k_per_scale": 16}
    minimum = {"minimum": np.dtype(np.int8)}
    known: list[tuple[str, int, Any, dict[str, Any]]] = [
        ("Q8_0", 8, _from(-128), plain | {"tried": (-127, -127.5, -128, 127, 126.5, -126.5)}),
        ("Q4_0", 4, _from(-8), plain),
        ("Q4_1", 4, _from(0), added),
        ("Q5_0", 5, _from(-16), plain),
        ("Q5_1", 5, _from(0), added),
        ("IQ4_NL", 4, IQ4.__getitem__, plain | {"tried": (-127, -120, -113, -104, -134, 113, 105, 97, 120)}),
        ("Q4_K", 4, _from(0), eights | minimum),
        ("Q5_K", 5, _from(0), eights | minimum),
        ("Q6_K", 6, _from(-32), sixteens | {"most_scale": 128}),
        ("IQ4_XS", 4, IQ4.__getitem__, eights | {"most_scale": 32}),
        ("Q3_K", 3, _from(-4), sixteens | {"most_scale": 32}),
        ("Q2_K", 2, _from(0), sixteens | minimum | {"most_scale": 15}),
    ]
    return [
        Format(
            number=4 + place,
            name=name.lower(),
            bits=bits,
            decode=decode,
            stored=_stored_in_blocks(name),
            computed=_WHOLE,
            **rest,
        )
        for place, (name, bits, decode, rest) in enumerate(known)
    ]


def _integers(first: int) -> list[Format]:
    """Whole numbers times a scale, less a zero first in those with a z, for groups of k.

    Those that end in f16 are worth numbers of f16, as in a model of that dtype; their scales are f16 too, others bf16.
    Both kinds of zero are less what stands for 0, half of all codes.
    """
    kinds = [
        (f"int{bits}{'z' if zero else ''}_{group}{'_f16' if half else ''}", bits, zero, group, half)
        for bits, zero, half in (
            (4, False, False),
            (4, True, False),
            (4, True, True),
            (8, True, False),
            (8, True, True),
        )
        for group in (32, BLOCK_K)
    ]
    return [
        Format(
            number=first + place,
            name=name,
            bits=bits,
            decode=_from(-(1 << bits - 1)),
            stored=Stored(name, "u1", joined=True),
            computed=_IN_TERMS if half else _EXPANDED,
            terms=2 if half else 1,
            k_per_scale=group,
            scale=np.dtype(np.float16 if half else np.uint16),
            decode_scale=np.asarray if half else from_bf16,
            zero=np.dtype(np.int8) if zero else None,
        )
        for place, (name, bits, zero, group, half) in enumerate(kinds)
    ]


_FP8 = Format(
    number=2,
    name="fp8",
    bits=8,
    decode=E4M3.__getitem__,
    # DeepSeek-V3, inference/kernel.py, weight_dequant
    stored=Stored(
        "F8_E4M3",
        "u1",
        scales="_scale_inv",
        scale_dtypes=("F32", "BF16", "F16"),
        rows_per_scale=128,
    ),
    computed=_EXPANDED,
    paired=True,
    k_per_scale=128,
    scale=np.dtype(np.float32),
    nan=0x7F,
)

_MXFP4 = Format(
    number=3,
    name="mxfp4",
    bits=4,
    decode=E2M1.__getitem__,
    stored=Stored(
        "U8",
        "u1",
        suffix="_blocks",
        k_first=False,
        group=32,
        scales="_scales",
        scale_dtypes=("U8",),
        experts_only=True,
    ),
    computed=_WHOLE,
    k_per_scale=32,
    unit=0.5,
    scale=np.dtype(np.uint8),
    decode_scale=e8m0,
)

FP8_ROWS = replace(_FP8, name="fp8_rows", stored=Stored("fp8_rows", "u1", joined=True))
"""FP8 with a scale for each row, or for all of them: packed as if blocks of k had scales."""

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(0, "bf16", 16, from_bf16, Stored("BF16", "<u2"), "multiplied as they are", paired=True),
        Format(
            number=1,
            name="f16",
            bits=16,
            decode=lambda codes: codes.view(np.float16).astype(np.float32),
            stored=Stored("F16", "<u2"),
            computed="multiplied as the two bf16 terms that each weight is the exact sum of",
            paired=True,
            terms=2,
        ),
        _FP8,
        _MXFP4,
        *_of_gguf(),
        FP8_ROWS,
        replace(_MXFP4, name="mxfp4_gguf", stored=_stored_in_blocks("MXFP4")),
        HighBytes(
            number=16,
            name="bf12",
            bits=12,
            decode=from_bf16,
            stored=Stored("BF16", "<u2"),
            computed="bf16 with the upper byte in 4 bits, expanded to the same bits on the way to the multiplication",
            packs="bf16",
            pays=("amx", "avx512"),
        ),
        *_integers(17),
    )
}
"""Formats by name. A checkpoint's tensor whose dtype none of them stores is rounded to the first."""
PLAIN = FORMATS["bf16"]
"""What kernels multiply without expanding it."""
_PACKED = {format.number: format for format in reversed([*FORMATS.values()])}
NUMBERED = tuple(_PACKED[number] for number in sorted(_PACKED))
"""By number: what a packed weight is does not depend on which checkpoint it is from."""
RAW = f"{PLAIN.name}-raw"
"""PLAIN as it is, and in no format that holds the same numbers in fewer bits."""
DTYPES = {
    "q8": FORMATS["q8_0"],
    "q4": FORMATS["iq4_nl"],
    **{format.name: format for format in NUMBERED if format.terms == 1},
    RAW: PLAIN,
}
"""What users call the formats that a model can be compiled for; loading makes those of MADE of any weights."""
MADE = tuple(format for format in NUMBERED if format is PLAIN or format.tried)
"""What numbers are packed in, however they are stored."""


def packings(isa: str) -> dict[str, str]:
    """Formats of checkpoints, and those that hold their numbers in fewer bits and pay on an ISA."""
    return {format.packs: format.name for format in FORMATS.values() if isa in format.pays}


def expanded(format: Format) -> Format:
    """The format without scales that holds exactly what a format's weights are worth."""
    return next(one for one in FORMATS.values() if not one.k_per_scale and one.terms == format.terms)


def unquantized(dtype: object) -> Format:
    """The format of numbers of a dtype as config.json names it: f16, or PLAIN."""
    return FORMATS["f16"] if str(dtype).removeprefix("torch.") in ("float16", "half") else PLAIN


def integer_format(bits: int, zeros: bool, number: Format, group: int) -> Format:
    """What packs whole numbers of so many bits whose groups of k have scales, and perhaps zeros; else `number`.

    `number` is what they are worth: PLAIN or f16. A `group` of 0 is all k. Without zeros, the middle one of the numbers
    is 0, which a format of more bits must be told.
    """
    found = [
        format
        for format in FORMATS.values()
        if format.stored.joined and format.terms == number.terms and format is not FP8_ROWS
        if format.bits >= bits and group % format.k_per_scale == 0
        if format.zero or (not zeros and bits == format.bits)
    ]
    return min(found, key=lambda format: format.stored_bits, default=number)


def stored_format(name: str, dtype: str) -> Format:
    """The format that a checkpoint's tensor is in, by dtype and, if several have that, name; PLAIN if none has."""
    found = [format for format in FORMATS.values() if format.stored.dtype == dtype and not format.packs]
    named = [format for format in found if name.endswith(format.stored.suffix)]
    return (named or found or [PLAIN])[0]
