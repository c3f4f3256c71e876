"""KL, agreement and perplexity against torch-free definitions, and the windows of a text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measures import divergences

from ellm.evaluation.divergence import Divergence, Mean
from ellm.evaluation.windows import Windows


def added(a, b, following, cuts=()):
    found = Divergence()
    for rows in np.split(np.arange(len(following)), cuts):
        found.add(a[rows], b[rows], following[rows])
    return found.summary()


def test_two_tokens_by_hand():
    a, b = np.log([[0.75, 0.25], [0.5, 0.5]]).astype(np.float32), np.log([[0.5, 0.5], [0.2, 0.8]]).astype(np.float32)
    found = added(a + 3, b - 700, np.array([0, 1]))
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    assert found.kl.value == pytest.approx((first + second) / 2, rel=1e-4)
    assert (found.kl_max, found.positions) == (pytest.approx(max(first, second), rel=1e-4), 2)
    assert found.perplexity_a.value == pytest.approx((0.75 * 0.5) ** -0.5, rel=1e-5)
    assert found.perplexity_b.value == pytest.approx((0.5 * 0.8) ** -0.5, rel=1e-5)
    assert found.same_top.value == 0.5


@given(st.integers(1, 40), st.integers(2, 50), st.integers(0, 99))
def test_whatever_the_cuts(rows, vocab, seed):
    random = np.random.default_rng(seed)
    a, b = (random.normal(0, 4, (rows, vocab)).astype(np.float32) for _ in range(2))
    following = random.integers(0, vocab, rows)
    found, other = added(a, b, following), added(a, b, following, sorted(random.integers(0, rows, 2)))
    kl = divergences(a, b)
    assert found == other
    assert found.kl.value == pytest.approx(kl.mean(), abs=1e-12)
    assert found.kl_99 == pytest.approx(np.quantile(kl, 0.99), abs=1e-12)
    assert found.same_top.value == (a.argmax(1) == b.argmax(1)).mean()


def test_equal_logits_are_nowhere_apart():
    a = np.random.default_rng(0).normal(0, 10, (9, 100)).astype(np.float32)
    found = added(a, a, np.zeros(9, int))
    assert (found.kl, found.kl_max, found.same_top) == (Mean(0, 0), 0, Mean(1, 0))
    assert found.perplexity_a == found.perplexity_b


def test_windows_of_a_long_text():
    windows = Windows(np.arange(23, dtype=np.int32), (), 8)
    assert [window.tolist() for window in windows] == [[*range(8)], [*range(8, 16)]]
    assert (windows.count, windows.left_over, windows.first, windows.length) == (2, 7, 4, 8)


def test_each_window_begins_as_a_text_does():
    windows = Windows(np.arange(14, dtype=np.int32), (99,), 8)
    assert [window.tolist() for window in windows] == [[99, *range(7)], [99, *range(7, 14)]]
    assert (windows.left_over, windows.first) == (0, 4)


def test_a_short_text_is_scored_from_its_first_token_on():
    windows = Windows(np.arange(5, dtype=np.int32), (99,), 8)
    assert [window.tolist() for window in windows] == [[99, 0, 1, 2, 3, 4]]
    assert (windows.count, windows.left_over, windows.first) == (1, 0, 0)
