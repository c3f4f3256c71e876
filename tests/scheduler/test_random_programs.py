"""Random programs run natively: every task once and after all it depends on, for many steps in a row."""

import pytest
from block_programs import BlockProgram, check_random_program, oversubscribed, random_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def pool(request):
    """More workers than cores included: then a worker loses its core at any moment."""
    with oversubscribed(request.param) as pool:
        yield pool


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_native_order_equals_the_reference(pool, random):
    check_random_program(pool, random)


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generations_that_start_anew(pool, random):
    """Words of a step long ago must not pass for those of this one when the 24 bits of the generation run over."""
    graph = BlockProgram(random)
    executable = graph.load(pool)
    steps = [random_step(random, graph.program) for _ in range(4)]
    for lap in range(3):
        executable.number = max(executable.number, (lap + 1) * 0xFFFFFF - 3)
        for step in steps:
            graph.choose(random)
            graph.check_step(executable, step)


@pytest.mark.timeout(60)  # or else workers wait for ever for the tasks of a step that seems to be done
@given(random=st.randoms(use_true_random=False), laps=st.integers(1, 3))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_whose_generation_was_before(pool, random, laps):
    """Raised over the number at which generations start anew, to one that has the generation of the last step."""
    graph = BlockProgram(random)
    executable = graph.load(pool)
    for _ in range(3):
        graph.choose(random)
        graph.check_step(executable, random_step(random, graph.program))
        executable.number += laps * 0xFFFFFF - 1
