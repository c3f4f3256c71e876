"""Whatever comes together, waits, gives way, is cancelled or restored: each answer has the bits that it has alone."""

import dataclasses
import random
import threading

import pytest
from until import until

from ellm import LLM, InputError, SamplingParams, StructuredOutputs
from ellm.kernels.contract import SPLIT
from ellm.serving.sessions import Sessions
from ellm.system import memory

MOST = SamplingParams(max_tokens=24, ignore_eos=True)
MORE = [  # what the requests ask for besides
    {},
    {"structured_outputs": StructuredOutputs(regex="(the |ab){2}[0-9]{1,9}")},
    {"prompt_logprobs": 3, "logprobs": 2},
    {"frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {7: 3.0}},
    {"structured_outputs": StructuredOutputs(choice=["another one", "another answer"]), "logprobs": 1, "min_tokens": 5},
]
PLACES = 70  # positions that there is memory for
RESTART = 25  # schedules between restarts
REQUESTS = [
    (
        [3 + i, 40 - i, *range(7 * i % 45)],
        dataclasses.replace(MOST, temperature=i % 3 / 2, seed=i, max_tokens=6 + 2 * i, **MORE[i % len(MORE)]),
    )
    for i in range(10)
]


class Opened:
    """An LLM that is opened anew on the files of the one before it; `alone` are the answers of one without a cache."""

    def __init__(self, checkpoint, sessions, threads):
        self._options = {"model": checkpoint, "threads": threads, "pin": "none", "chunk": 16, "max_seqs": 3}
        self._sessions = sessions
        with LLM(**self._options, cache_bytes=0) as llm:
            self.alone = [answer(llm.generate([prompt], params)[0]) for prompt, params in REQUESTS]
        self.llm = self._open()
        self.restored = 0  # tokens that came out of files

    def _open(self):
        return LLM(**self._options, sessions=self._sessions)

    def restart(self):
        """Close it while it answers; what it has computed so far is found by the next."""
        cut = [self.llm.stream(*REQUESTS[which]) for which in (9, 8)]
        until(lambda: any(stream.output.token_ids for stream in cut))
        self.llm.close()
        for stream in cut:
            try:
                "".join(stream)
            except InputError as error:
                assert "this LLM is closed" in str(error)
        self.llm = None
        self.llm = self._open()


@pytest.fixture(scope="module", params=[1, 2])
def opened(request, checkpoint, tmp_path_factory):
    opened, load = Opened(checkpoint, tmp_path_factory.mktemp("sessions"), request.param), Sessions.load

    def count(sessions, entry, pieces):
        whole = load(sessions, entry, pieces)
        opened.restored += whole * (len(entry.tokens) - entry.number * SPLIT)
        return whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sessions, "load", count)
        yield opened
    opened.llm.close()


def answer(output):
    scored = output.top_logprobs, output.prompt_logprobs, output.prompt_top_logprobs
    return output.token_ids, output.logprobs, output.text, *scored


@pytest.fixture
def scarce(opened, monkeypatch):
    """Memory for few positions: sequences give way to others while they grow."""

    available = memory.available

    def left():
        if opened.llm is None:  # one is being opened
            return available()
        engine = opened.llm.engine
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
    """Serve schedules, with restarts between some: how often one gave way, and how many tokens came out of files."""
    gave_way = answered = 0
    restored = opened.restored
    for number, seed in enumerate(seeds):
        if number % RESTART == RESTART - 1:
            opened.restart()
        schedule, before = drawn(seed), opened.llm.statistics().preemptions
        for key, got in serve(opened.llm, schedule).items():
            assert got == opened.alone[schedule[key][0]], f"seed {seed}, request {key} of {schedule}"
            answered += 1
        until(lambda: opened.llm.engine.idle)
        assert len(opened.llm.engine.free_slots) == 3
        gave_way += opened.llm.statistics().preemptions - before
    assert answered > 2 * len(seeds)
    return gave_way, opened.restored - restored


def test_any_schedule_gives_the_answers_of_each_alone(opened):
    gave_way, restored = check(opened, range(150))
    assert gave_way > 0, "no class gave way"
    assert restored > 0, "nothing came out of files"


def test_they_do_where_memory_is_short(opened, scarce):
    gave_way, _ = check(opened, range(1000, 1150))  # what files hold may find no room
    assert gave_way > 20


def test_a_lower_class_gives_way_and_goes_on(opened):
    llm, alone = opened.llm, opened.alone
    before = llm.statistics().preemptions
    slow = [llm.stream(REQUESTS[which][0], REQUESTS[which][1], priority="batch") for which in (9, 8, 7)]
    until(lambda: llm.statistics().running == 3)
    quick = llm.stream(*REQUESTS[1])
    assert "".join(quick) == alone[1][2]
    for which, stream in zip((9, 8, 7), slow, strict=True):
        assert "".join(stream) == alone[which][2] and answer(stream.output) == alone[which]
    assert llm.statistics().preemptions > before
