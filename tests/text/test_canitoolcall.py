"""Recorded answers of nine families (canitoolcall) and what a right parser makes of them."""

from collections import Counter

import pytest
from canitoolcall import checks
from canitoolcall.chunking import DEFAULT_STRATEGIES, group_sizes
from canitoolcall.fixtures import load_families, load_fixtures
from canitoolcall.results import Observation
from recorded_answers import parse, special, tokens

from ellm.text.families import FAMILIES

FIXTURES = load_fixtures()
# None fails. These differ in white space:
SOFT = {"gemma4/vllm-text-before-call": "the space before a call is the answer's, as in gemma4/sglang-text-before-call"}


def statuses():
    """The status of each fixture, and what was found wrong with it."""
    families, found = load_families(), {}
    for fixture in FIXTURES:
        marked = [number in special(fixture) for number in fixture.output_token_ids]
        streams = {
            strategy.id: parse(fixture, group_sizes(len(marked), strategy, marked)) for strategy in DEFAULT_STRATEGIES
        }
        observed = Observation(streams["token"], streams)
        rows = checks.run_checks(fixture, families[fixture.family], observed)
        wrong = [(row.check, row.strategy, row.detail) for row in rows if row.status.value != "pass"]
        found[fixture.id] = (checks.case_status(rows).value, wrong)
    return found


def test_every_recorded_answer_is_read_right():
    found = statuses()
    assert {name: wrong for name, (status, wrong) in found.items() if status not in ("pass", "soft_pass")} == {}
    assert {name for name, (status, _) in found.items() if status == "soft_pass"} == SOFT.keys()
    assert Counter(status for status, _ in found.values()) == {"pass": 468, "soft_pass": 1}


def test_the_recorded_answers_are_of_families_that_are_found_by_their_marks():
    from recorded_answers import style

    found = {fixture.reference_model: style(fixture).family for fixture in FIXTURES}
    assert None not in found.values()
    assert found["Qwen/Qwen3-Coder-30B-A3B-Instruct"].name == "qwen3_coder"
    assert found["Qwen/Qwen3-0.6B"].name == "hermes"
    assert found["deepseek-ai/DeepSeek-V3.2"].name == "deepseek_v32"
    assert {one.name for one in found.values()} <= {one.name for one in FAMILIES}


@pytest.mark.parametrize("family", ["qwen3-hermes", "deepseek"])
def test_tokens_and_text_agree(family):
    for fixture in FIXTURES:
        if fixture.family == family:
            assert any(number in tokens(fixture) for number in fixture.output_token_ids) == any(
                mark in fixture.raw_output for mark in tokens(fixture).values()
            )
