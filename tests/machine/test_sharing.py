"""How cores share sockets, domains and caches, read from a /sys of a machine that is not here."""

import shutil

import pytest
from fake_machine import write_machine

from ellm.machine.sharing import Sharing
from ellm.system.errors import InputError


@pytest.fixture
def root(tmp_path):
    """2 sockets of 2 domains of 2 caches of 4 cores: socket 0 has cores 0-15."""
    return write_machine(tmp_path, sockets=2, domains=2, caches=2, cores=4)


def test_a_machine_of_two_sockets(root):
    sharing = Sharing.of(list(range(32)), root)
    assert sharing.per_socket() == (2, 16, 2, 4)
    assert (sharing.l2_bytes, sharing.last_level_bytes) == (2 << 20, 96 << 20)
    assert sharing.pairs() == {"near": [0, 1], "far": [0, 4], "socket": [0, 16]}
    assert sharing.remote() == 8


@pytest.mark.parametrize(
    ("cores", "per_socket", "relations", "remote"),
    [
        (range(16), (1, 16, 2, 4), {"near", "far"}, 8),
        (range(4), (1, 4, 1, 1), {"near"}, None),
        ([0, 16], (2, 1, 1, 1), {"socket"}, 1),
        ([0, 4, 16, 20], (2, 2, 1, 2), {"far", "socket"}, 2),
        ([16, 0, 17, 1], (2, 2, 1, 1), {"near", "socket"}, 1),
        ([5], (1, 1, 1, 1), set(), None),
    ],
)
def test_only_the_cores_of_the_workers_count(cores, per_socket, relations, remote, root):
    sharing = Sharing.of(list(cores), root)
    assert sharing.per_socket() == per_socket
    assert set(sharing.pairs()) == relations and sharing.remote() == remote


def test_a_numa_node_of_both_sockets_is_a_domain_in_each(root):
    shutil.rmtree(root / "sys/devices/system/node")
    assert Sharing.of(list(range(32)), root).per_socket() == (2, 16, 1, 4)


def test_a_system_that_tells_nothing_is_one_socket(tmp_path):
    sharing = Sharing.of([0, 1], tmp_path)
    assert sharing.per_socket() == (1, 2, 1, 1)
    assert (sharing.l2_bytes, sharing.last_level_bytes, set(sharing.pairs())) == (0, 0, {"near"})


def test_sockets_that_do_not_hold_the_same(root):
    with pytest.raises(InputError, match=r"--threads 20: of the cores .* 16 of socket 0, 4 of socket 1, but"):
        Sharing.of(list(range(20)), root).per_socket()
    with pytest.raises(InputError, match=r"--threads 4: of the domains .* 1 of socket 0, 2 of socket 1, but"):
        Sharing.of([0, 1, 16, 24], root).per_socket()
