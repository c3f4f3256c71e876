"""What single tasks cost: what AMX does meanwhile, and rows that do not stay in L2."""

from dataclasses import replace

import pytest
from test_plan import SPARSE

from ellm.compiled import Options, Source, compile_model
from ellm.kernels import contract
from ellm.kernels.records import RECORDS
from ellm.machine import description
from ellm.predict.task_costs import Costing


def ns_of(kernel: str, rows: int, machine: description.Machine, **sizes: int) -> tuple[float, float, float, float]:
    """Of a task of the first such operator: ns, and those of its products, of expanding, of reading all from L3."""
    source = Source(SPARSE | {"num_hidden_layers": 1, "vocab_size": 1000} | sizes)
    options = Options(context=512, isa=machine.isa, dtype="fp8", workers=126)
    program = compile_model(source, options).program
    costing = Costing(program, machine, 126)
    op = [program.kernels[kernel] for kernel in program.op_kernel].index(kernel)
    args = contract.unpack(kernel, program.args[op])
    work, tasks = RECORDS[kernel].work(args, rows), program.operators[op].tiles
    products = work.tile_flops / tasks / machine.matmul_tflops_per_core / 1000
    expanding = work.weight_bytes / tasks / machine.expand_fp8_gb_per_s_per_core
    passing = (work.weight_bytes / tasks + 2 * rows * args["k"]) / machine.llc_read_gb_per_s_per_core
    return float(costing.task(op, work, 1).ns[0]), products, expanding, passing


def test_amx_expands_while_it_multiplies_and_vectors_before():
    ns, products, expanding, _ = ns_of("qkv", 64, description.load("xeon-6980p"))
    assert ns == pytest.approx(max(products, expanding))
    ns, products, expanding, _ = ns_of("qkv", 64, description.load("epyc-9755"))
    assert ns == pytest.approx(products + expanding)


def test_rows_that_do_not_stay_in_l2_are_read_again_by_each_task():
    machine = replace(description.load("xeon-6980p"), llc_read_gb_per_s_per_core=10.0)
    ns, products, _, passing = ns_of("qkv", 256, machine)
    assert products < passing == pytest.approx(ns)
    ns, products, *_ = ns_of("qkv", 256, machine, hidden_size=1024)
    assert ns == pytest.approx(products)
