"""Whatever comes together, waits, gives way or is cancelled: each answer has the bits that it has alone."""

import dataclasses
import random
import threading

import pytest
from until import until

from ellm import LLM, SamplingParams, StructuredOutputs

MOST = SamplingParams(max_tokens=24, ignore_eos=True)
MORE = [  # what the requests ask for besides
    {},
    {"structured_outputs": StructuredOutputs(regex="(the |ab){2}[0-9]{1,9}")},
    {"prompt_logprobs": 3, "logprobs": 2},
    {"frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {7: 3.0}},
    {"structured_outputs": StructuredOutputs(choice=["another one", "another answer"]), "logprobs": 1, "min_tokens": 5},
]
PLACES = 70  # positions that there is memory for
REQUESTS = [
    (
        [3 + i, 40 - i, *range(7 * i % 45)],
        dataclasses.replace(MOST, temperature=i % 3 / 2, seed=i, max_tokens=6 + 2 * i, **MORE[i % len(MORE)]),
    )
    for i in range(10)
]


@pytest.fixture(scope="module", params=[1, 2])
def opened(request, checkpoint):
    with LLM(checkpoint, threads=request.param, pin="none", chunk=16, max_seqs=3) as llm:
        alone = [answer(llm.generate([prompt], params)[0]) for prompt, params in REQUESTS]
        yield llm, alone


def answer(output):
    scored = output.top_logprobs, output.prompt_logprobs, output.prompt_top_logprobs
    return output.token_ids, output.logprobs, output.text, *scored


@pytest.fixture
def scarce(opened, monkeypatch):
    """Memory for few positions: sequences give way to others while they grow."""
    engine = opened[0].engine

    def left():
        engine.room.unchecked = 0.0
        return (PLACES - sum(one.sequence.cached for one in list(engine.running))) * engine.room.position_bytes

    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    monkeypatch.setattr("ellm.system.memory.available", left)


def serve(llm, schedule):
    """Requests from threads, at the steps that a schedule says; what each got, None for those that were cancelled."""
    found, failures = {}, []

    def work(key, which, at, priority, cancelled):
        try:
            until(lambda: llm.statistics().steps >= begun + at or llm.engine.idle)
            prompt, params = REQUESTS[which]
            stream = llm.stream(prompt, params, priority=priority)
            if cancelled is not None:
                until(lambda: len(stream.output.token_ids) >= cancelled or llm.engine.idle)
                stream.close()
            else:
                text = "".join(stream)
                found[key] = answer(stream.output)
                assert text == found[key][2]
        except BaseException as error:
            failures.append(error)

    begun = llm.statistics().steps
    threads = [threading.Thread(target=work, args=(key, *one)) for key, one in enumerate(schedule)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in threads)
    return found


def drawn(seed):
    """(request, step at which it comes, class, tokens after which it is cancelled)."""
    draw = random.Random(seed)
    return [
        (
            draw.randrange(len(REQUESTS)),
            draw.choice([0, 0, draw.randrange(30)]),
            draw.choice(["interactive", "batch"]),
            draw.choice([None, None, None, draw.randrange(8)]),
        )
        for _ in range(draw.randrange(2, 9))
    ]


def check(opened, seeds):
    llm, alone = opened
    before, answered = llm.statistics(), 0
    for seed in seeds:
        schedule = drawn(seed)
        for key, got in serve(llm, schedule).items():
            assert got == alone[schedule[key][0]], f"seed {seed}, request {key} of {schedule}"
            answered += 1
        until(lambda: llm.engine.idle)
        assert len(llm.engine.free_slots) == 3
    after = llm.statistics()
    assert answered > 2 * len(seeds)
    return after.preemptions - before.preemptions


def test_any_schedule_gives_the_answers_of_each_alone(opened):
    assert check(opened, range(150)) > 0, "no class gave way"


def test_they_do_where_memory_is_short(opened, scarce):
    assert check(opened, range(1000, 1150)) > 20


def test_a_lower_class_gives_way_and_goes_on(opened):
    llm, alone = opened
    before = llm.statistics().preemptions
    slow = [llm.stream(REQUESTS[which][0], REQUESTS[which][1], priority="batch") for which in (9, 8, 7)]
    until(lambda: llm.statistics().running == 3)
    quick = llm.stream(*REQUESTS[1])
    assert "".join(quick) == alone[1][2]
    for which, stream in zip((9, 8, 7), slow, strict=True):
        assert "".join(stream) == alone[which][2] and answer(stream.output) == alone[which]
    assert llm.statistics().preemptions > before
