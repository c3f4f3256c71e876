import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_machine import eight_threads, machine, write_machine

from ellm.scheduler import Pool, topology
from ellm.system.errors import InputError

ALLOWED = sorted(os.sched_getaffinity(0))


def test_workers_are_pinned():
    with Pool() as pool:
        pinned = {}
        for task in Path("/proc/self/task").iterdir():
            name = task.joinpath("comm").read_text().strip()
            if name.startswith("ellm-"):
                pinned[int(name[5:])] = sorted(os.sched_getaffinity(int(task.name)))
        assert pinned == {worker: [core] for worker, core in enumerate(pool.cores)}
        assert sorted(os.sched_getaffinity(0)) == ALLOWED, "the caller stays free"


def test_the_mask_of_the_process_is_respected():
    script = (
        f"import os; os.sched_setaffinity(0, [{ALLOWED[-1]}])\n"
        "from ellm.scheduler import Pool\n"
        "with Pool() as pool: print(pool.cores)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"[{ALLOWED[-1]}]"


def test_more_threads_than_allowed():
    with pytest.raises(InputError, match=f"threads: {len(ALLOWED) + 1} asked for, but .* allows {len(ALLOWED)} cores"):
        Pool(threads=len(ALLOWED) + 1)
    with pytest.raises(InputError, match="threads: 0"):
        Pool(threads=0)
    with pytest.raises(InputError, match=r"cores: .* the affinity mask allows"):
        Pool(cores=[4095])


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "400000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "sys/fs/cgroup/cpu.max": "300000 100000",
            },
            3.0,
        ),
        ({"proc/self/cgroup": "0::/of/the/host", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n1:name=systemd:/",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/x",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_quota(tmp_path, files, quota):
    assert topology.cgroup_quota(machine(tmp_path, files)) == quota


def test_cores_are_chosen_one_per_physical_core(tmp_path, monkeypatch):
    root = eight_threads(tmp_path)
    monkeypatch.setattr(topology, "allowed_cores", lambda: list(range(8)))
    assert topology.choose_cores(None, root) == [0, 1, 2, 3]
    assert topology.choose_cores(6, root) == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(topology, "allowed_cores", lambda: [3, 5, 7])
    assert topology.choose_cores(None, root) == [5, 3]
    machine(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "190000 100000"})
    assert topology.choose_cores(None, root) == [3]
    with pytest.raises(InputError, match=r"threads: 2 asked for, but .* 3 cores, the cgroup quota 1\.9"):
        topology.choose_cores(2, root)


def test_crews_share_node_and_cache(tmp_path):
    root = eight_threads(tmp_path)
    crews = topology.crews([0, 1, 4, 5, 2, 3, 6, 7], root)
    assert crews.begin.tolist() == [0, 4, 8] and crews.order.tolist() == [[0, 1], [1, 0]]
    assert topology.crews([0, 2, 1], root).begin.tolist() == [0, 1, 2, 3]


def test_near_crews_are_those_of_near_nodes(tmp_path):
    """Two sockets of two nodes each, whose cores share the last level cache with the other node of the socket."""
    root = write_machine(tmp_path, sockets=2, domains=2, caches=1, cores=13)
    for core in range(52):
        socket = core // 26
        shared = f"sys/devices/system/cpu/cpu{core}/cache/index3/shared_cpu_list"
        machine(root, {shared: f"{26 * socket}-{26 * socket + 25}"})
    for node in range(4):
        told = [10 if other == node else 12 if other // 2 == node // 2 else 21 for other in range(4)]
        machine(root, {f"sys/devices/system/node/node{node}/distance": " ".join(map(str, told))})
    crews = topology.crews(list(range(52)), root)
    assert crews.begin.tolist() == [0, 6, 13, 19, 26, 32, 39, 45, 52]
    assert crews.order[3].tolist() == [3, 2, 0, 1, 4, 5, 6, 7]
    assert crews.order[4].tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_many_cores_leave_some_to_python(monkeypatch, tmp_path):
    monkeypatch.setattr(topology, "allowed_cores", lambda: list(range(128)))
    root = write_machine(tmp_path, sockets=1, domains=3, caches=1, cores=43)
    assert topology.choose_cores(None, root) == list(range(126))
    assert topology.choose_cores(128, root) == list(range(128))
    assert [topology.spare(cores) for cores in (2, 15, 16, 64)] == [0, 0, 1, 2]


def test_cores_are_sorted_by_node(monkeypatch, tmp_path):
    root = write_machine(tmp_path, sockets=1, domains=2, caches=1, cores=4)
    machine(root, {"sys/devices/system/node/node0/cpulist": "0,2,4,6"})
    machine(root, {"sys/devices/system/node/node1/cpulist": "1,3,5,7"})
    monkeypatch.setattr(topology, "allowed_cores", lambda: list(range(8)))
    assert topology.choose_cores(None, root) == [0, 2, 4, 6, 1, 3, 5, 7]


def test_caches_nodes_and_huge_pages(tmp_path):
    root = eight_threads(tmp_path)
    assert [(cache.level, cache.size) for cache in topology.caches(5, root)] == [(1, 48 << 10), (3, 32 << 20)]
    assert topology.caches(5, root)[1].cores == {0, 1, 4, 5}
    assert topology.numa_nodes(root) == {0: [0, 1, 4, 5], 1: [2, 3, 6, 7]}
    machine(root, {
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "7",
    })  # fmt: skip
    assert topology.huge_pages(root) == {"transparent": "madvise", str(2 << 20): 7}
