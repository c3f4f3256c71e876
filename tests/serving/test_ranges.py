"""KV ranges."""

import ctypes
import mmap
import threading
from pathlib import Path

import numpy as np
import pytest

from ellm.serving.ranges import RangePool
from ellm.system import memory
from ellm.system.memory import Mapping


def test_a_range_reads_as_zeros_again_after_release():
    pool = RangePool(1 << 40)  # far more than there is: address space only
    first = pool.acquire()
    first.array[123456789] = 7
    pool.release(first)
    pool.settle()
    assert pool.acquire() is first and first.array[123456789] == 0
    assert pool.acquire() is not first
    pool.close()


def resident(mapping):
    """Bytes of a mapping that have pages."""
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(mapping.address // mmap.PAGESIZE * 8)
        pages = np.frombuffer(file.read(mapping.size // mmap.PAGESIZE * 8), np.uint64)
    return int((pages >> np.uint64(63)).sum()) * mmap.PAGESIZE


def test_pages_are_given_back_by_a_thread_of_the_pool(monkeypatch):
    """The memory really leaves, and who releases does not wait for it."""
    pool = RangePool(1 << 30)
    first, threads, go = pool.acquire(), [], threading.Event()
    first.array[: 64 << 20] = 1
    assert resident(first) >= 64 << 20
    clear = Mapping.clear

    def slowly(self, *edges):
        go.wait()
        threads.append(threading.current_thread())
        clear(self, *edges)

    monkeypatch.setattr(Mapping, "clear", slowly)
    pool.release(first)
    pool.release(first)  # as after an interrupt
    assert pool.held == 0 and resident(first) >= 64 << 20
    second = pool.acquire()
    assert second is not first, "it has pages still"
    go.set()
    pool.settle()
    assert resident(first) == 0
    assert len(threads) == 1 and threads[0] is not threading.current_thread()
    assert pool.acquire() is first and pool.held == 2
    pool.close()


def test_a_part_is_given_back():
    pool = RangePool(1 << 30)
    one = pool.acquire()
    one.array[: 1 << 20] = 1
    pool.give_back(one, 1 << 19, 1 << 20)
    pool.settle()
    assert one.array[: 1 << 19].all() and not one.array[1 << 19 : 1 << 20].any()
    pool.close()


def test_other_threads_run_while_pages_are_given_back():
    """The call for that is made without the interpreter's lock, which `ctypes.PyDLL` would keep."""
    assert memory._LIBC._func_flags_ & ctypes._FUNCFLAG_PYTHONAPI == 0


def test_a_short_sequence_takes_no_huge_pages():
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("no transparent huge pages")
    pool = RangePool(64 << 20, 0, 8 << 20)
    one = pool.acquire()
    one.array[4 << 20] = 1
    assert resident(one) <= 64 << 10
    pool.use_huge_pages(one, 1, 3)
    one.array[12 << 20] = 1
    assert resident(one) >= 2 << 20
    pool.release(one)
    pool.settle()
    again = pool.acquire()
    again.array[12 << 20] = 1
    assert again is one and resident(one) <= 64 << 10, "what its last sequence was given is forgotten"
    pool.close()


def test_blocks_are_dealt_to_the_nodes(monkeypatch):
    dealt = []
    monkeypatch.setattr(Mapping, "prefer", lambda self, node, begin, end: dealt.append((node, begin, end)))
    for nodes, wanted in (
        ((), []),
        ((3,), []),
        ((0, 2), [(2, 5 * 4096, 9 * 4096), (0, 9 * 4096, 13 * 4096), (2, 13 * 4096, 17 * 4096)]),
    ):
        dealt.clear()
        pool = RangePool(1 << 20, 4096, 4 * 4096, nodes)
        pool.place(pool.acquire(), 1, 4)
        pool.close()
        assert dealt == wanted


def test_memory_is_asked_of_a_node():
    mapping = Mapping(1 << 20, "this test")
    mapping.prefer(0, 4096, 8192)
    lines = Path("/proc/self/numa_maps")
    if not lines.exists():
        pytest.skip("no NUMA here")
    assert f"{mapping.address + 4096:x} prefer" in lines.read_text()
    mapping.close()
