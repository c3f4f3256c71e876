"""What is foretold: what followed the same tokens the last time; and what is thought of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.serving.lookup import RUNS, Lookup, agreeing
from ellm.serving.step_costs import FORGET, StepCosts

LIMIT = 200


def known(tokens):
    """An array of LIMIT tokens that begins with these."""
    array = np.full(LIMIT, -1, np.int32)
    array[: len(tokens)] = tokens
    return array


def followed(tokens, most):
    """By looking at all places: what followed the last place of each run that occurred before, the longest first."""
    found = []
    for run in RUNS:
        for end in range(len(tokens) - 1, run - 1, -1):
            if tokens[end - run : end] == tokens[-run:]:
                found.append((tokens[end : end + most] * most)[:most])
                break
    return found


@settings(max_examples=200)
@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=60), most=st.integers(1, 31))
def test_the_first_call_finds_the_last_place_of_a_run(tokens, most):
    """None where others took its slot."""
    found = Lookup(known(tokens)).foretell(len(tokens), most)
    assert not found or found in followed(tokens, most)


def test_the_longest_run_counts():
    tokens = [*range(1, 11), 50, 8, 9, 10, 60, *range(1, 11)]
    assert Lookup(known(tokens)).foretell(len(tokens), 2) == [50, 8]
    assert Lookup(known(tokens[12:])).foretell(len(tokens) - 12, 2) == []
    assert Lookup(known([9, *tokens[11:]])).foretell(len(tokens) - 10, 2) == [60, 1]


@settings(max_examples=200)
@given(
    tokens=st.lists(st.integers(0, 3), min_size=2, max_size=LIMIT),
    steps=st.lists(st.integers(1, 9), min_size=1),
    most=st.integers(1, 31),
)
def test_what_is_foretold_followed_the_same_tokens(tokens, steps, most):
    """However the tokens come."""
    lookup, length, at = Lookup(known(tokens)), 1, 0
    while length < len(tokens):
        found = lookup.foretell(length, most)
        assert len(found) in (0, most) and set(found) <= set(tokens[:length]) and 0 <= lookup.chance <= 1
        place, matched = lookup._place, lookup._matched
        if found:
            assert matched >= min(RUNS) and 0 < place < length
            assert tokens[place - matched : place] == tokens[length - matched : length]
            assert found == (tokens[place:length][:most] * most)[:most]
        length, at = length + steps[at % len(steps)], at + 1


def test_a_repeat_is_foretold_and_believed_more_and_more():
    tokens = [*range(50), *range(50), *range(50), *range(50)]
    array = known(tokens)
    lookup = Lookup(array)
    chances = []
    for length in range(50 + min(RUNS), 190, 7):
        assert lookup.foretell(length, 8) == tokens[length : length + 8] + [
            at % 50 for at in range(len(tokens), length + 8)
        ]
        chances.append(lookup.chance)
    assert chances[0] < 0.5 and chances[-1] > 0.97 and lookup._matched > 100


def test_what_was_foretold_wrongly_is_believed_less():
    random = np.random.default_rng(0)
    tokens = [1, 2, 3]
    for token in random.integers(10, 90, 40).tolist():  # behind 1 2 3 comes always something else
        tokens += [token, 1, 2, 3]
    lookup = Lookup(known(tokens))
    for length in range(3, len(tokens), 4):
        lookup.foretell(length, 4)
    assert lookup.chance < 0.05


def test_one_token_over_and_over_goes_round():
    lookup = Lookup(known([7] * 5))
    assert lookup.foretell(5, 9) == [7] * 9


def test_tables_do_not_grow():
    array = np.random.default_rng(0).integers(0, 50000, 200_000).astype(np.int32)
    lookup = Lookup(array)
    lookup.foretell(len(array), 4)
    assert all(len(table) == 1 << 16 for table in lookup._tables.values())


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_agreeing_counts_to_the_first_that_differs(a, b):
    n = agreeing(a, b)
    assert a[:n] == b[:n] and (n == min(len(a), len(b)) or a[n] != b[n])


def test_costs_are_known_from_the_fewest_rows_on_and_one_further():
    costs = StepCosts(1, 64)
    assert costs.expected() == []
    costs.measured(1, 1.0)
    assert [rows for rows, _ in costs.expected()] == [1, 2]
    costs.measured(8, 1.7)
    assert costs.expected()[:4] == [(1, 1.0), (2, 1.1), (4, 1.3), (8, 1.7)]
    ((rows, seconds),) = costs.expected()[4:]
    assert rows == 16 and abs(seconds - 2.5) < 1e-9, "as steep as between the two before"
    costs.measured(3, 9.0)
    assert len(costs.expected()) == 5, "no time is kept of 3 rows"


def test_the_first_time_of_so_many_rows_counts_less():
    costs = StepCosts(1, 4)
    costs.measured(1, 5.0)
    costs.measured(1, 1.0)
    assert costs.expected()[0] == (1, 1.0)


def test_all_costs_move_with_those_that_are_measured():
    costs = StepCosts(1, 2)
    for rows, seconds in [(1, 1.0), (1, 1.0), (2, 2.0), (2, 2.0), *[(1, 3.0)] * 40]:
        costs.measured(rows, seconds)
    (_, one), (_, two) = costs.expected()
    assert 2.9 < one < 3.1 and 1.5 < two / one < 2.1


def test_old_times_are_tried_again():
    costs = StepCosts(1, 4)
    for rows in (1, 2, 4):
        costs.measured(rows, float(rows) * 10)
    for _ in range(FORGET + 1):
        costs.measured(1, 10.0)
    ((_, one), (rows, two)) = costs.expected()
    assert rows == 2 and two < 1.05 * one
