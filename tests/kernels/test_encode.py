"""Numbers to codes and scales: every ISA gives the bits of `Format.encode`, and no scale near by is better."""

import numpy as np
import pytest
from harness import each_isa
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.kernels.encode import LARGEST, encode
from ellm.kernels.formats import FORMATS, NUMBERED

TRIED = [format.name for format in NUMBERED if format.tried]
each_format = pytest.mark.parametrize("name", TRIED)


def numbers(random, rows, k):
    """Groups as weights are, and odd ones: zeros, one number, tiny and huge ones."""
    x = random.standard_t(4, (rows, k)).astype(np.float32) * np.float32(0.02)
    scales = random.choice(np.array([1, 1, 1, 0, 1e-7, 3e-39, 1e5], np.float32), (rows, -(-k // 32)))
    x *= scales.repeat(32, 1)[:, :k]
    x[random.random(x.shape) < 0.05] = 0
    return np.clip(x, -LARGEST, LARGEST)


def worth(format, codes, scales):
    """float32 [rows, k] of codes [rows, k] and the bits of scales [rows, groups]."""
    return format.worths[codes] * scales.view(np.float16).astype(np.float32).repeat(format.k_per_scale, 1)


@each_isa
@each_format
@settings(deadline=None, max_examples=40)
@given(rows=st.integers(0, 20), k=st.sampled_from([1, 31, 32, 96, 100, 544]), seed=st.integers(0, 999))
def test_every_isa_gives_the_bits_of_the_reference(isa, name, rows, k, seed):
    format, x = FORMATS[name], numbers(np.random.default_rng(seed), rows, k)
    codes, scales = encode(format, x, isa)
    whole = np.pad(x, ((0, 0), (0, -k % 32)))
    expected_codes, expected_scales = format.encode(whole)
    np.testing.assert_array_equal(scales, expected_scales.view(np.uint16))
    np.testing.assert_array_equal(codes, expected_codes)


@each_format
def test_the_scale_is_about_the_best_there_is(name):
    """Many more scales leave a squared error that is 13 % less at most; the first that is tried leaves more."""
    format, x = FORMATS[name], np.random.default_rng(1).normal(0, 0.02, (40, 320)).astype(np.float32)
    groups = x.reshape(-1, 32)
    found = ((groups - worth(format, *encode(format, x)).reshape(-1, 32)) ** 2).sum()
    extreme = groups[np.arange(len(groups)), np.abs(groups).argmax(1)]

    def errors(scale):
        nearest = np.abs(groups[..., None] / scale[:, None, None] - format.worths).argmin(-1)
        return ((groups - scale[:, None] * format.worths[nearest]) ** 2).sum(1)

    ends = [end * factor for end in (format.worths[0], format.worths[-1]) for factor in np.linspace(0.7, 1.2, 120)]
    best = np.min([errors(extreme / end) for end in ends], 0)
    first = errors(extreme / format.tried[0]).sum()
    assert best.sum() <= found * (1 + 1e-3) and found < 1.15 * best.sum() and found < 0.97 * first


@each_format
def test_what_a_format_has_is_kept(name):
    """Codes times scales whose largest code is one of those that are tried come back as they are."""
    format, random = FORMATS[name], np.random.default_rng(3)
    codes = random.integers(0, 1 << format.bits, (20, 64), np.uint8)
    codes[:, ::32] = np.abs(format.worths - format.tried[0]).argmin()
    if format.worths[0] < format.tried[0]:
        codes = np.maximum(codes, 1)
    scales = random.uniform(0.001, 0.1, (20, 2)).astype(np.float16).view(np.uint16)
    x = worth(format, codes, scales)
    np.testing.assert_array_equal(worth(format, *encode(format, x)), x)


def test_groups_that_do_not_fit_are_refused():
    from ellm.kernels import _portable

    with pytest.raises(ValueError, match="3 groups of 16 do not fit"):
        numbers, codes = np.zeros((3, 16), np.float32), np.zeros((3, 32), np.uint8)
        _portable.encode(np.zeros(16, np.float32), np.ones(1, np.float32), numbers, codes, np.zeros(3, np.float32))
