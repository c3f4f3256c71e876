"""Memory: what there is of it, and what cannot be had."""

import pytest

from ellm.system.errors import InputError
from ellm.system.memory import Mapping, available, cgroup_limits


def test_address_space_that_is_not_there_is_bad_input():
    with pytest.raises(InputError, match="address space for a test"):
        Mapping(1 << 60, "a test")


def test_available_memory_is_some_but_not_more_than_there_is():
    assert 1 << 20 < available() < 1 << 50


@pytest.mark.parametrize("version", [1, 2])
def test_the_memory_limit_of_every_cgroup_above_counts_and_cached_files_do_not(tmp_path, version):
    (tmp_path / "proc/self").mkdir(parents=True)
    top = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    (top / "outer/inner").mkdir(parents=True)
    line, limit, used, prefix = (
        ("4:memory:/outer/inner", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        if version == 1
        else ("0::/outer/inner", "memory.max", "memory.current", "")
    )
    (tmp_path / "proc/self/cgroup").write_text(f"7:cpu:/elsewhere\n{line}\n")
    (top / "outer/inner" / limit).write_text("max\n")
    (top / "outer/inner" / used).write_text("100\n")
    (top / "outer" / limit).write_text("5000\n")
    (top / "outer" / used).write_text("3000\n")
    (top / "outer/memory.stat").write_text(f"anon 1\n{prefix}active_file 200\n{prefix}inactive_file 800\n")
    assert cgroup_limits(tmp_path) == [(5000, 2000)]
