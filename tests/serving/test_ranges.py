"""KV ranges, and what of a prompt a cache has."""

import numpy as np

from ellm.serving.ranges import PromptCache, RangePool


def test_a_range_reads_as_zeros_again_after_release():
    pool = RangePool(1 << 40)  # far more than there is: address space only
    first = pool.acquire()
    first.array[123456789] = 7
    pool.release(first)
    assert pool.acquire() is first and first.array[123456789] == 0
    assert pool.acquire() is not first
    pool.close()


def test_common_prefix():
    cache = PromptCache()
    tokens = np.array([1, 2, 3], np.int32)
    assert cache.common_prefix(tokens) == 0
    cache.tokens = np.array([1, 2, 4, 5], np.int32)
    assert cache.common_prefix(tokens) == 2
    assert cache.common_prefix(cache.tokens[:3]) == 3
