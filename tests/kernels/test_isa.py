"""The choice of an ISA, refusals, and what its kernels do otherwise on other CPUs."""

import re
from pathlib import Path

import pytest

from ellm.kernels import contract, isa
from ellm.system.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """Pretends that a CPU has some flags; the build and the kernel are real."""

    def pretend(flags, amx_refusal=None):
        monkeypatch.setattr(isa, "cpu_flags", lambda: frozenset(flags))
        monkeypatch.setattr(isa, "_amx_refusal", lambda: amx_refusal)
        monkeypatch.delenv("ELLM_ISA", raising=False)
        isa.available.cache_clear()

    yield pretend
    isa.available.cache_clear()


def test_best_isa_of_the_cpu_is_chosen(machine):
    machine(isa.FLAGS["avx2"])
    choice = isa.choose()
    assert choice.isa == "avx2"
    assert "avx512: this CPU lacks avx512f, avx512bw" in choice.reason
    machine([])
    assert isa.choose().isa == "portable"


def test_avx512_without_bf16_has_kernels_of_its_own(machine):
    machine(isa.FLAGS["avx512f"])
    choice = isa.choose()
    assert choice.isa == "avx512f"
    assert "avx512: this CPU lacks avx512vbmi, avx512_bf16, avx512_vnni" in choice.reason


def test_refused_amx_falls_back_and_says_so(machine):
    machine(isa.FLAGS["amx"], amx_refusal="the operating system refused")
    choice = isa.choose()
    assert choice.isa == "avx512"
    assert "amx: the operating system refused" in choice.reason


@pytest.mark.parametrize("name", [name for name, obstacle in isa.available().items() if obstacle is None])
def test_kernels_fetch_into_l1_on_zen_5_alone(name):
    said = dict(re.findall(r"^(vendor_id|cpu family)\s*: (\S+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    zen_5 = said.get("vendor_id") == "AuthenticAMD" and int(said["cpu family"]) >= 26
    assert isa.fetches(name) == ("L1" if zen_5 and name == "avx512" else "L2")


def test_environment_and_argument(machine, monkeypatch):
    machine(isa.FLAGS["avx512"])
    monkeypatch.setenv("ELLM_ISA", "portable")
    assert isa.choose() == isa.Choice("portable", "ELLM_ISA")
    assert isa.choose("avx2") == isa.Choice("avx2", "asked for")


def test_unusable_and_unknown_names_are_input_errors(machine, monkeypatch):
    machine(isa.FLAGS["avx2"])
    with pytest.raises(InputError, match=r"ISA 'avx512' \(asked for\) cannot be used here: this CPU lacks avx512f"):
        isa.choose("avx512")
    monkeypatch.setenv("ELLM_ISA", "sse9")
    with pytest.raises(
        InputError, match=r"ISA 'sse9' \(ELLM_ISA\) is unknown: choose one of amx, avx512, avx512f, avx2, portable"
    ):
        isa.choose()


def test_missing_extension_is_said(machine, monkeypatch):
    machine(isa.FLAGS["avx2"])
    monkeypatch.setattr(isa.importlib.util, "find_spec", lambda name: None)
    assert "this build lacks it" in str(isa.available()["portable"])


@pytest.mark.parametrize("name", [name for name, obstacle in isa.available().items() if obstacle is None])
def test_table_has_every_kernel(name):
    table = isa.table(name)
    assert table.isa == name
    assert table.addresses.keys() == contract.FIELDS.keys()
    assert len({*table.addresses.values(), table.enter, table.leave}) == len(table.addresses) + 2
