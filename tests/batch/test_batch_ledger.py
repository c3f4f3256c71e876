"""The output of a batch, interrupted anywhere: in any order of answers, at any byte that is written."""

import contextlib
import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.batch import ledger as ledgers
from ellm.batch.answers import Answers
from ellm.batch.ledger import Full, Ledger
from ellm.server.errors import ApiError
from ellm.system.errors import InputError

ABOUT = {"input": "7 lines", "model": "tiny", "dtype": "None"}
ANSWERS = Answers("0123456789ab")


class Killed(BaseException):
    """The process ends here."""


def answer(number):
    return ANSWERS.error(number, None, ApiError(400, "x" * (number * 37 % 90)))


def opened(path, numbers, about=ABOUT, answers=ANSWERS):
    return Ledger(path, about, answers, [(number, b"") for number in numbers])


def expected(numbers):
    return b"".join(map(answer, numbers))


@contextlib.contextmanager
def writing_at_most(size, error):
    """So many bytes more; then what was asked for is written in part, and `error` raised."""
    left, write = size, ledgers._append

    def append(file, line):
        nonlocal left
        fits = line[: max(left, 0)]
        left -= len(line)
        if len(fits) < len(line):
            os.write(file.fileno(), fits)
            raise error
        write(file, line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_append", append)
        yield


def answer_in_order(path, numbers, order, group):
    """Go on with a batch, its answers coming in this order, so many at once. How many were missing."""
    ledger = opened(path, numbers)
    try:
        missing = {n for n in itertools.islice(numbers, ledger.tally.lines, None) if ledger.expect(n)}
        coming = [number for number in order if number in missing]
        for begin in range(0, len(coming), group):
            ledger.record({number: answer(number) for number in coming[begin : begin + group]})
        ledger.record({})
        ledger.finish()
    finally:
        ledger.close()
    return len(missing)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_run_killed_at_any_byte_is_gone_on_with(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "out.jsonl"
    numbers = sorted(data.draw(st.sets(st.integers(1, 60), min_size=1, max_size=25)))
    group = data.draw(st.integers(1, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "SLACK", data.draw(st.sampled_from([0, 300, 1 << 20])))
        for size in data.draw(st.lists(st.integers(0, 3000), max_size=4)):
            order = data.draw(st.permutations(numbers))
            error = data.draw(st.sampled_from([Killed(), OSError(28, "No space left on device")]))
            with writing_at_most(size, error), contextlib.suppress(Killed, Full):
                answer_in_order(path, numbers, order, group)
            if path.exists():
                begun = path.read_bytes()
                assert expected(numbers).startswith(begun)
        answer_in_order(path, numbers, data.draw(st.permutations(numbers)), group)
    assert path.read_bytes() == expected(numbers)
    assert [file.name for file in path.parent.iterdir()] == ["out.jsonl"]


def test_what_was_recorded_is_never_asked_for_again(tmp_path):
    path, numbers = tmp_path / "out", [1, 2, 4, 7, 9]
    ledger = opened(path, numbers)
    assert all(ledger.expect(number) for number in numbers)
    ledger.record({1: answer(1), 7: answer(7)})
    ledger.record({9: answer(9)})
    ledger.close()
    assert path.read_bytes() == answer(1)
    ledger = opened(path, numbers)
    assert (ledger.tally.lines, ledger.done) == (1, 3)
    assert [number for number in numbers[1:] if ledger.expect(number)] == [2, 4]
    ledger.record({4: answer(4)})
    ledger.record({2: answer(2)})
    ledger.finish()
    ledger.close()
    assert path.read_bytes() == expected(numbers)


def test_the_file_beside_the_output_does_not_keep_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "SLACK", 0)
    path, numbers = tmp_path / "out", list(range(1, 200))
    ledger = opened(path, numbers)
    for number in numbers:
        ledger.expect(number)
    for number in range(1, 199, 2):  # each pair the wrong way round
        ledger.record({number + 1: answer(number + 1)})
        ledger.record({number: answer(number)})
        assert ledger.beside.stat().st_size < 2000
    ledger.close()


@pytest.mark.parametrize("name", ABOUT)
def test_another_batch_is_refused_with_both_values(tmp_path, name):
    path = tmp_path / "out"
    opened(path, [1, 2]).close()
    opened(path, [1, 2], ABOUT | {name: "third"}).close()  # nothing is lost: there are no answers yet
    ledger = opened(path, [1, 2])
    assert ledger.expect(1) and ledger.expect(2)
    ledger.record({2: answer(2)})
    ledger.close()
    with pytest.raises(InputError, match=f"was begun with {name} {ABOUT[name]}, not other"):
        opened(path, [1, 2], ABOUT | {name: "other"})


@pytest.mark.parametrize("text", [b"precious\n", b"precious", answer(1) + answer(2) + answer(3), answer(2)])
def test_a_file_that_is_not_of_this_batch_is_left_as_it_is(tmp_path, text):
    path = tmp_path / "out"
    path.write_bytes(text)
    with pytest.raises(InputError, match="is of no batch with this input"):
        opened(path, [1, 2])
    assert path.read_bytes() == text


def test_a_finished_output_of_this_batch_needs_nothing(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(expected([1, 2]))
    ledger = opened(path, [1, 2])
    assert (ledger.done, ledger.tally.errors) == (2, 2)
    ledger.finish()
    ledger.close()
    assert path.read_bytes() == expected([1, 2])


def test_an_output_in_use_or_that_is_no_file_is_refused(tmp_path):
    ledger = opened(tmp_path / "out", [1])
    with pytest.raises(InputError, match="another ellm batch is writing it"):
        opened(tmp_path / "out", [1])
    ledger.close()
    with pytest.raises(InputError, match="is not a file"):
        opened(tmp_path, [1])
    with pytest.raises(InputError, match="cannot be written"):
        opened(tmp_path / "none" / "out", [1])
