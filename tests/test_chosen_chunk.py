"""How many rows a step has where nobody says: enough for each expert, within a step's time and the arena's memory."""

from types import SimpleNamespace

import pytest
from small_models import config

from ellm.compiled import CHUNK, LONGEST_CHUNK, Options, Source, chosen_chunk, compile_model

GIB = 1 << 30


def program(experts: int = 128, top_k: int = 8, **changes):
    """What is asked of a program: Qwen3-30B-A3B's, unless changed; the arena is of CHUNK rows."""
    operators = [
        SimpleNamespace(experts=0, top_k=0, flops=4 * 10**9),
        SimpleNamespace(experts=experts, top_k=top_k, flops=2 * 10**9),
    ]
    fields = {"weights_bytes": 57 * GIB, "arena_bytes": 70 << 20, "chunk": CHUNK, "context": 40960}
    return SimpleNamespace(operators=operators, **fields | changes)


@pytest.mark.parametrize(
    "experts, top_k, rows",
    [(128, 8, 4096), (160, 8, 5120), (32, 4, 2048), (8, 2, 1024), (0, 1, CHUNK)],
)
def test_each_expert_gets_its_rows(experts, top_k, rows):
    assert chosen_chunk(program(experts, top_k), "amx", 128) == rows


def test_slower_cores_need_fewer_rows_of_an_expert():
    assert chosen_chunk(program(), "avx2", 128) == CHUNK
    assert chosen_chunk(program(256, 4), "avx512", 128) == 2048


def test_a_step_is_not_longer_than_seconds():
    assert chosen_chunk(program(), "amx", 2) == 1536
    assert chosen_chunk(program(), "avx512", 1) == CHUNK


def test_the_arena_is_a_small_part_of_the_weights():
    assert chosen_chunk(program(arena_bytes=700 << 20), "amx", 128) == 2560
    assert chosen_chunk(program(weights_bytes=1 << 20), "amx", 128) == CHUNK


def test_no_step_is_longer_than_a_sequence_or_the_longest_chunk():
    assert chosen_chunk(program(context=3000), "amx", 128) == 2560
    assert chosen_chunk(program(context=100), "amx", 128) == CHUNK
    many = program(1 << 20, 1, context=1 << 20, weights_bytes=1 << 50)
    assert chosen_chunk(many, "amx", 1 << 20) == LONGEST_CHUNK


def test_a_model_is_compiled_for_the_chosen_chunk_unless_one_is_given(monkeypatch):
    monkeypatch.setattr("ellm.compiled.chosen_chunk", lambda program, isa, cores: 1024)
    source = Source(config())
    chosen = compile_model(source, Options(context=2048, chunk=None))
    assert (chosen.chunk, chosen.program.chunk) == (1024, 1024)
    assert compile_model(source, Options(context=2048, chunk=100)).chunk == 100
    assert compile_model(source, Options(context=2048)).chunk == CHUNK
