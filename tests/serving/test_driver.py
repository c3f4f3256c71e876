"""The engine's thread: whoever waits hears of the end, whatever ends it, and nothing is left running."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from engines import POSITIONS, STATE, Sums, completion, open_engine, results, summed
from until import until

from ellm import LLM, Busy, InputError, Late, SamplingParams
from ellm.llm import Stream
from ellm.serving.driver import Driver
from ellm.serving.policy import Terms

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


class Gate:
    """Holds each step until it is opened; counts those that came."""

    def __init__(self, executable):
        self.came, self.open = threading.Semaphore(0), threading.Semaphore(0)
        executable.before = self

    def __call__(self, step):
        self.came.release()
        assert self.open.acquire(timeout=60)


@pytest.fixture(params=[POSITIONS, STATE], ids=lambda kind: kind.name)
def engine(request):
    return open_engine(Sums(), request.param, chunk=8, slots=3)


@pytest.fixture
def driver(engine):
    opened = Driver(engine)
    yield opened
    opened.close()


def held(engine):
    """Ranges of an idle engine that are no cache."""
    engine.room.forget()
    return engine.room.ranges.held


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "ellm-engine"]


def stream(driver, one, notify=None):
    found = Stream(driver, one, notify)
    driver.submit([one])
    return found


def test_many_threads_share_the_steps(driver, engine):
    failures = []

    def work(number):
        try:
            for turn in range(20):
                prompt = [number, turn, *range(turn)]
                if turn % 3 == 0:
                    many = [completion(prompt), completion([*prompt, 7])]
                    driver.run(many)
                    assert [tokens for tokens, *_ in results(many)] == [summed(p, 5) for p in (prompt, [*prompt, 7])]
                elif turn % 3 == 1:
                    one = completion(prompt, max_tokens=9)
                    pieces = list(stream(driver, one))
                    assert results([one])[0][0] == summed(prompt, 9) and "".join(pieces) == results([one])[0][1]
                else:
                    stream(driver, completion(prompt, max_tokens=40)).close()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failures and not any(worker.is_alive() for worker in workers)
    until(lambda: engine.idle)
    assert len(engine.free_slots) == 3 and held(engine) == 0


def test_requests_that_arrive_at_once_begin_together(driver, engine, monkeypatch):
    monkeypatch.setattr("ellm.serving.driver.GATHER_SECONDS", 60)
    gate = Gate(engine.executables[0])
    first, second, third = (completion([token] * 2) for token in (5, 6, 7))
    with driver.arriving(), driver.arriving():
        driver.submit([first])
        driver.submit([second])
        assert not gate.came.acquire(timeout=0.05)
    assert gate.came.acquire(timeout=60) and len(engine.running) == 2
    with driver.arriving():  # nobody who runs waits for who arrives
        for _ in range(2):
            gate.open.release()
            assert gate.came.acquire(timeout=60)
        driver.submit([third])
    gate.open.release(100)
    until(lambda: first.ended and second.ended and third.ended)


def test_who_never_arrives_is_not_waited_for(driver, engine):
    one = completion([5])
    with driver.arriving():
        driver.submit([one])
        until(lambda: one.ended)
    with driver.arriving():
        driver.close()


def test_a_closed_stream_ends_with_the_step_under_way(driver, engine):
    """In the middle of a prompt, too, and without waiting."""
    executable = engine.executables[0]
    gate = Gate(executable)
    one = completion(list(range(40)))
    closing = stream(driver, one)
    assert gate.came.acquire(timeout=60)
    closing.close()
    assert closing.poll() is None and list(closing) == []
    gate.open.release()
    until(lambda: engine.idle)
    assert sum(executable.times.values()) == 8, "more than a chunk of the prompt was computed"
    assert one.ended and one.finish_reason is None and held(engine) == 0


def test_a_stream_that_is_dropped_ends(driver, engine):
    gate = Gate(engine.executables[0])
    dropped = stream(driver, completion([1, 2], max_tokens=50))
    assert gate.came.acquire(timeout=60)
    del dropped
    gate.open.release()
    until(lambda: engine.idle)


def test_a_poll_does_not_wait(driver, engine):
    told = threading.Event()
    gate = Gate(engine.executables[0])
    one = completion([1, 2, 3], max_tokens=2)
    polled = stream(driver, one, told.set)
    assert gate.came.acquire(timeout=60)
    assert polled.poll() == [] and not told.is_set()
    gate.open.release()
    assert told.wait(60)
    until(lambda: len(one.pieces) == 1)
    assert [piece.text for piece in polled.poll()] == [one.pieces[0].text] and polled.poll() == []
    gate.open.release()
    until(lambda: one.ended)
    rest = polled.poll()
    assert "".join(piece.text for piece in rest) == one.pieces[1].text and polled.poll() is None


def test_who_cannot_be_told_is_not_served(driver, engine):
    def gone():
        raise RuntimeError("the loop is closed")

    lost, other = completion([1, 2], max_tokens=50), completion([3])
    reading = stream(driver, lost, gone)
    driver.run([other])
    assert results([other])[0][0] == summed([3], 5)
    until(lambda: lost.ended)
    with pytest.raises(RuntimeError, match="loop is closed"):
        while reading.poll() is not None:
            pass


def test_an_exception_of_a_step_reaches_those_in_it(driver, engine):
    executable = engine.executables[0]

    def fail(step):
        executable.before = lambda step: None
        raise MemoryError("no")

    executable.before = fail
    one = completion([1, 2])
    with pytest.raises(MemoryError):
        list(stream(driver, one))
    driver.run([again := completion([1, 2])])
    assert results([again])[0][0] == summed([1, 2], 5)


def test_an_exception_between_steps_reaches_everybody(driver, engine, monkeypatch):
    monkeypatch.setattr(engine.policy, "limit", lambda requests: 1 / 0)
    one = completion([1, 2])
    driver.run([one])
    with pytest.raises(ZeroDivisionError):
        one.output()
    monkeypatch.undo()
    driver.run([again := completion([1, 2])])
    assert results([again])[0][0] == summed([1, 2], 5)


def test_close_ends_all_that_wait(engine):
    driver, errors = Driver(engine), []

    def wait(number):
        try:
            one = completion([number], max_tokens=50)
            driver.run([one])
            one.output()
        except InputError as error:
            errors.append(str(error))

    gate = Gate(engine.executables[0])
    waiting = [threading.Thread(target=wait, args=(number,)) for number in range(6)]
    for thread in waiting:
        thread.start()
    assert gate.came.acquire(timeout=60)
    until(lambda: len(engine.waiting) + len(engine.running) == 6)
    closing = threading.Thread(target=driver.close)
    closing.start()
    until(lambda: driver._jobs.qsize())
    gate.open.release(100)
    for thread in [*waiting, closing]:
        thread.join(60)
    assert errors == ["this LLM is closed"] * 6 and not threads()
    driver.close()
    with pytest.raises(InputError, match="closed"):
        driver.run([completion([1])])


def test_a_driver_that_nobody_has_ends_its_thread(engine):
    freed = threading.Event()
    driver = Driver(engine, freed.set)
    driver.run([completion([1, 2])])
    kept = stream(driver, completion([1, 2]))
    gone = weakref.ref(driver)
    del driver
    gc.collect()
    assert list(kept) and not freed.is_set(), "a stream needs it"
    del kept
    gc.collect()
    assert gone() is None and freed.wait(60)
    until(lambda: not threads())


def test_a_full_queue_says_when_to_come_again(engine):
    engine._queued_tokens = 10
    driver = Driver(engine)
    gate = Gate(engine.executables[0])
    reading = [stream(driver, completion([1, 2, 3]))]
    assert gate.came.acquire(timeout=60)
    reading.append(stream(driver, completion([1] * 9)))
    engine.policy.times.row_seconds = 0.3
    with pytest.raises(
        Busy, match=r"9 tokens of prompts wait, 2 more would exceed the 10 that may; try again in 3 s"
    ) as full:
        driver.submit([completion([1, 2])])
    assert (full.value.backlog, full.value.retry_after) == (9, 3)
    assert driver._engine.statistics().queued_tokens == 9
    gate.open.release(1000)
    assert all(list(one) for one in reading)
    driver.run([completion([1, 2])])
    driver.close()


def test_what_is_too_late_is_dropped(driver, engine):
    gate = Gate(engine.executables[0])
    doomed, fine = completion([1, 2], max_tokens=50), completion([3])
    now = time.perf_counter()
    doomed.sequence.terms = Terms.of("interactive", 0.01, now)
    fine.sequence.terms = Terms.of("interactive", 1000, now)
    driver.submit([doomed, fine])
    assert gate.came.acquire(timeout=60)
    until(lambda: time.perf_counter() > now + 0.01)
    gate.open.release(1000)
    until(lambda: doomed.ended and fine.ended)
    assert results([fine])[0][0] == summed([3], 5)
    with pytest.raises(
        Late, match=r"deadline of 0\.01 s: missed after [\d.]+ s with 2 of 2 tokens of the prompt computed"
    ):
        doomed.output()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"priority": "high"}, "priority must be interactive or batch, not 'high'"),
        ({"deadline": 0}, "deadline must be a number of seconds above 0, or None, not 0"),
        ({"deadline": float("nan")}, "deadline must be .*, not nan"),
        ({"deadline": True}, "deadline must be .*, not True"),
        ({"deadline": 10**400}, "deadline must be .*, not 10"),
    ],
)
def test_what_a_request_asks_for_is_checked(llm, options, words):
    with pytest.raises(InputError, match=words):
        llm.stream([1], GREEDY, **options)


def test_nobody_waits_for_the_next_token_of_a_batch(llm):
    with llm.stream([1], GREEDY) as stream, llm.stream([1], GREEDY, priority="batch") as batch:
        assert stream._completion.sequence.terms.paced
        assert not batch._completion.sequence.terms.paced


@pytest.mark.parametrize(
    "options, words",
    [
        ({"max_seqs": 0}, "max_seqs must be from 1 to 4096, not 0"),
        ({"max_seqs": 1.5}, "max_seqs must be a whole number, not 1.5"),
        ({"queued_tokens": 0}, "queued_tokens must be at least 1, not 0"),
        ({"target_itl": 0}, "target_itl must be a number of seconds above 0, not 0"),
        ({"target_itl": True}, "target_itl must be a number of seconds above 0, not True"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        LLM(tmp_path / "absent", **options)


def test_statistics_count_what_was_done(checkpoint):
    with LLM(checkpoint, speculate="off") as llm:
        llm.generate([[3] * 40, [4] * 10], GREEDY)
        found = llm.statistics()
    assert (found.waiting, found.running, found.queued_tokens, found.kv_bytes, found.preemptions) == (0, 0, 0, 0, 0)
    assert (found.prompt_tokens, found.generated_tokens, found.steps) == (50, 24, 12)
    assert (found.prefix_queries, found.prefix_hits) == (50, 0) and found.step_seconds > 0


SCRIPT = """
import os, signal, sys, threading, time
from ellm import LLM, SamplingParams
from ellm.serving.driver import Driver
llm = LLM(sys.argv[1], chunk=16)
endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
def interrupt_at(steps):
    executable, seen = llm.engine.executables[0], []
    class Pressed:
        program, hold = executable.program, executable.hold
        def run(self, step, meanwhile=lambda: None):
            def counted():
                seen.append(True)
                if len(seen) == steps:
                    os.kill(os.getpid(), signal.SIGINT)
                return meanwhile()
            executable.run(step, counted)
    llm.engine.executables[0] = Pressed()
    return seen
def settled():
    while not llm.engine.idle:
        time.sleep(0.001)
"""


def python(checkpoint, code, timeout=60):
    """What a script with an open LLM prints; it must end by itself."""
    command = [sys.executable, "-c", SCRIPT + code, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "wait",
    [
        "llm.generate([[5] * 30, [6] * 3], endless)",
        "list(llm.stream([5] * 3, endless))",
        "llm.logits([5] * 900)",
        "list(llm.logits_by_step([5] * 900))",
        "llm.generate([[5] * 1000], endless)",
    ],
)
def test_ctrl_c_ends_a_wait_and_what_is_waited_for(checkpoint, wait):
    code = f"""
expected = llm.generate([[7, 8]], SamplingParams(temperature=0, max_tokens=5))[0].token_ids
seen = interrupt_at(6)
try:
    {wait}
except KeyboardInterrupt:
    ran = len(seen)
settled()
print(ran <= len(seen) <= ran + 1)
print(expected == llm.generate([[7, 8]], SamplingParams(temperature=0, max_tokens=5))[0].token_ids)
settled()
llm.engine.room.forget()
print(llm.engine.room.ranges.held)
"""
    assert python(checkpoint, code) == (0, "True\nTrue\n0\n", "")


@pytest.mark.parametrize(
    "last",
    [
        "sys.exit(3)",
        "sys.stdout.flush(); sys.exit(3)",
        "del llm; sys.exit(3)",
        "llm.close(); sys.exit(3)",
        "threading.Thread(target=lambda: llm.generate([[5]], endless)).start(); time.sleep(0.05); sys.exit(3)",
    ],
)
def test_an_exit_in_the_middle_of_steps_is_one(checkpoint, last):
    code = f"""
streams = [llm.stream([5, i], endless) for i in range(5)]
next(streams[0])
{last}
"""
    assert python(checkpoint, code) == (3, "", "")


def test_a_fork_is_told_so_and_ends(checkpoint):
    code = """
stream = llm.stream([5], endless)
child = os.fork()
if child == 0:
    for call in (lambda: llm.generate([[5]]), lambda: llm.logits([5]), lambda: llm.stream([5])):
        try:
            call()
        except RuntimeError as error:
            assert "fork" in str(error)
    llm.close()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len("".join(stream)) > 100)
"""
    assert python(checkpoint, code) == (0, "7 True\n", "")


def test_an_idle_engine_does_nothing(checkpoint):
    before = threads()
    with LLM(checkpoint) as llm:
        llm.generate([[5]], GREEDY)
        (thread,) = set(threads()) - set(before)
        status = Path(f"/proc/self/task/{thread.native_id}/status")
        until(lambda: "S (sleeping)" in status.read_text())
        switches = [line for line in status.read_text().splitlines() if "ctxt" in line]
        time.sleep(0.3)
        assert [line for line in status.read_text().splitlines() if "ctxt" in line] == switches
