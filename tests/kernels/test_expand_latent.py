"""expand_latent against its reference.

Bounds: a number on a tie may round to bf16 either way, one ulp (2^-7 of it) apart; sums in f32 add far less than
2^-15 of the largest result.
"""

from dataclasses import dataclass

import formats
import numpy as np
import pytest
from formats import BF16, F16, FP8, MXFP4
from harness import Case, Memory, each_isa, for_cases, pack_keys, up
from hypothesis import strategies as st

from ellm.kernels import layout
from ellm.kernels.contract import SPLIT
from ellm.kernels.layout import from_bf16, to_bf16


@dataclass
class Shape:
    """Sizes of a latent cache and of what it expands to, and the formats of the weights."""

    latent: int = 40
    rotary: int = 8
    heads: int = 2
    key_dim: int = 20
    value_dim: int = 24
    key_format: int = BF16
    value_format: int = BF16


def weights(shape: Shape, random: np.random.Generator, n: int, format: int) -> tuple[np.ndarray, np.ndarray]:
    """A packed weight for each head, bytes [heads, ...], and what they are worth, [heads, n, latent]."""
    packed = [formats.random_weight(format, n, shape.latent, random) for _ in range(shape.heads)]
    worth = [formats.values(one, format, n, shape.latent) for one in packed]
    return np.stack([one.reshape(-1).view(np.uint8) for one in packed]), np.stack(worth)


class Expansion:
    """The case of sequences of these lengths, whose last `rows` rows (or fewer) are in the step."""

    def __init__(self, shape: Shape, lengths: list[int], rows: int, seed: int = 0):
        random = np.random.default_rng(seed)
        self.shape, self.lengths = shape, lengths
        rows_of = [min(rows, length) for length in lengths]
        self.case = case = Case("expand_latent", sum(rows_of))
        case.step.slots = np.repeat(np.arange(len(lengths), dtype=np.int32), rows_of)
        case.step.positions = np.concatenate(
            [np.arange(length - count, length, dtype=np.int32) for length, count in zip(lengths, rows_of, strict=True)]
        )
        to_keys, self.to_keys = weights(shape, random, shape.key_dim, shape.key_format)
        to_values, self.to_values = weights(shape, random, shape.value_dim, shape.value_format)
        case.constant("to_keys", to_keys)
        case.constant("to_values", to_values)
        case.args |= {"to_keys_stride": to_keys.shape[1], "to_keys_format": shape.key_format}
        case.args |= {"to_values_stride": to_values.shape[1], "to_values_format": shape.value_format}
        case.args |= {name: getattr(shape, name) for name in ("latent", "rotary", "heads", "key_dim", "value_dim")}
        self._place(random)

    def _place(self, random: np.random.Generator) -> None:
        """KV ranges, NaN but for the cached keys in their blocks."""
        shape, blocks = self.shape, -(-max(self.lengths) // SPLIT)
        dims = shape.latent + shape.rotary
        key_dims = shape.key_dim + shape.rotary
        key_stride = 2 * SPLIT * up(key_dims, 32) + 64
        value_stride = 2 * SPLIT * up(shape.value_dim, 16) + 128
        block_bytes = 64 + 2 * SPLIT * up(dims, 32) + 64
        keys = blocks * block_bytes
        values = keys + shape.heads * key_stride
        block_stride = shape.heads * (key_stride + value_stride)
        self.case.args |= {"cached": 64, "keys": keys, "key_stride": key_stride}
        self.case.args |= {"values": values, "value_stride": value_stride, "block_stride": block_stride}
        self.cached, addresses = [], []
        for i, length in enumerate(self.lengths):
            memory = Memory(keys + blocks * block_stride)
            cached = from_bf16(to_bf16(random.standard_normal((length, dims)).astype(np.float32)))
            for block in range(-(-length // SPLIT)):
                tiles = pack_keys(cached[block * SPLIT : (block + 1) * SPLIT])
                memory.view(tiles.shape, np.uint16, block * block_bytes + 64)[:] = tiles
            self.case.memories.append(memory)
            self.case.outputs[f"expanded {i}"] = memory.view((memory.bytes.nbytes - keys,), np.uint8, keys)
            self.cached.append(cached)
            addresses.append(memory.address)
        self.case.step.ranges = np.array(addresses, np.uint64)
        self.case.step.context_blocks = blocks
        self.case.step.blocks = self.case.step.ranges[:, None] + np.uint64(block_bytes) * np.arange(blocks, dtype="u8")

    def expected(self, i: int, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of a sequence in float64, unrounded."""
        latent = self.cached[i][:, : self.shape.latent].astype(np.float64)
        keys = np.concatenate([latent @ self.to_keys[head].T, self.cached[i][:, self.shape.latent :]], axis=1)
        return keys, latent @ self.to_values[head].T

    def read(self, outputs: dict[str, np.ndarray], i: int, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of a sequence as they lie in outputs."""
        args, shape, data = self.case.args, self.shape, outputs[f"expanded {i}"]
        keys, values = [], []
        for begin in range(0, self.lengths[i], SPLIT):
            at = data.ctypes.data + begin // SPLIT * args["block_stride"]
            count = min(SPLIT, self.lengths[i] - begin)
            keys.append(layout.read_keys(at + head * args["key_stride"], count, shape.key_dim + shape.rotary))
            at += args["values"] - args["keys"] + head * args["value_stride"]
            values.append(layout.read_values(at, count, shape.value_dim))
        return np.concatenate(keys), np.concatenate(values)


def within(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether keys or values are those wanted, but for their rounding."""
    scale = np.abs(wanted).max(initial=0)
    return bool((np.abs(found - wanted) <= 2.0**-7 * np.abs(wanted) + 2.0**-15 * scale).all())


shapes = st.builds(
    Shape,
    latent=st.sampled_from([8, 32, 40, 97, 160]),
    rotary=st.sampled_from([2, 8, 64]),
    heads=st.integers(1, 3),
    key_dim=st.sampled_from([1, 16, 20, 41]),
    value_dim=st.sampled_from([7, 16, 24, 50]),
    key_format=st.sampled_from([BF16, F16, FP8, MXFP4]),
    value_format=st.sampled_from([BF16, F16, FP8, MXFP4]),
)
lengths = st.lists(st.sampled_from([1, 2, 31, 129, 511, 512, 513, 700]), min_size=1, max_size=3)


@for_cases(30, shape=shapes, lengths=lengths, rows=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_expand_latent(isa, shape, lengths, rows, seed):
    """Keys and values up to each sequence's last row, and nothing else, whatever the other sequences' lengths."""
    made = Expansion(shape, lengths, rows, seed)
    native, reference = made.case.run(isa), made.case.run(None)
    for i in range(len(lengths)):
        for head in range(shape.heads):
            wanted = made.expected(i, head)
            assert all(map(within, made.read(native, i, head), wanted))
            assert all(map(within, made.read(reference, i, head), wanted))


@each_isa
@pytest.mark.parametrize("length", [1, 15, 300, 512, 600])
def test_what_is_not_expanded_stays_as_it_is(isa, length):
    """Native kernel and reference write the same bytes."""
    made = Expansion(Shape(), [length], 1)
    native, reference = made.case.run(isa)["expanded 0"], made.case.run(None)["expanded 0"]
    view = made.case.outputs["expanded 0"]
    before = view.copy()
    view[:] = 0x55  # a second background tells written bytes that happen to be 0xFF
    other, other_reference = made.case.run(isa)["expanded 0"], made.case.run(None)["expanded 0"]
    view[:] = before
    kept = (native == 0xFF) & (other == 0x55)
    np.testing.assert_array_equal(kept, (reference == 0xFF) & (other_reference == 0x55))
    assert kept.any()


@each_isa
def test_a_position_does_not_depend_on_its_neighbours(isa):
    """The same bits with one row in the step or many, with fewer positions, and beside another sequence."""
    shape = Shape(key_format=FP8)
    whole = Expansion(shape, [700], 1)
    wanted = whole.read(whole.case.run(isa), 0, 1)
    many = Expansion(shape, [700], 37)
    two = Expansion(shape, [700, 90], 3)
    for other in (many, two):
        for found, expected in zip(other.read(other.case.run(isa), 0, 1), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_splits_are_those_of_the_longest_sequence():
    assert Expansion(Shape(), [3, SPLIT + 1], 2).case.tasks == 2 * 2
