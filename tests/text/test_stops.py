"""Stop strings in text that comes in pieces."""

import pytest

from ellm.text.piece import Unit
from ellm.text.stops import StopFilter, StopMatcher


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_text_before_a_stop_string_is_given_and_nothing_of_it(size):
    text, stops = "one aab two aaab three", ["aaab", "hree"]
    matcher, given = StopMatcher(stops), ""
    for begin in range(0, len(text), size):
        given += matcher.push(text[begin : begin + size])
        assert not any(given.endswith(stop[0]) for stop in stops) or matcher.matched
        if matcher.matched:
            break
    assert given == "one aab two " and matcher.matched and matcher.finish() == ""


def test_what_only_looked_like_a_stop_string_is_given_in_the_end():
    matcher = StopMatcher(["</end>"])
    assert [matcher.push("a <"), matcher.push("/en"), matcher.push("t </e"), matcher.finish()] == [
        "a ",
        "",
        "</ent ",
        "</e",
    ]
    assert not matcher.matched


def test_without_stop_strings_nothing_is_held_back():
    matcher = StopMatcher([])
    assert matcher.push("text") == "text" and matcher.finish() == ""


ANSWER = [Unit("one "), Unit("<|end|>", is_token=True), Unit("\ntwo")]


def filtered(units, *stops):
    """What passes, and whether a stop string came."""
    stop, passed = StopFilter(list(stops)), []
    for unit in units:
        if not stop.matched:
            passed += stop.push(unit)
    return [*passed, *stop.finish()], stop.matched


@pytest.mark.parametrize(
    "stop, expected",
    [
        ("<|end|>", ANSWER[:1]),
        ("ne <|end|>\nt", [Unit("o")]),
        ("|>\n", ANSWER[:1]),  # a token passes whole or not at all
        ("d|>x", ANSWER),
        ("wo", [*ANSWER[:2], Unit("\nt")]),
        ("three", ANSWER),
    ],
)
def test_a_stop_string_may_be_a_special_token_or_reach_over_one(stop, expected):
    passed, matched = filtered(ANSWER, stop)
    assert matched == (expected != ANSWER)
    assert "".join(unit.text for unit in passed) == "".join(unit.text for unit in expected)
    assert [unit for unit in passed if unit.is_token] == [unit for unit in expected if unit.is_token]


def test_what_may_be_a_stop_string_passes_as_it_came_when_it_is_none():
    units = [Unit("ab"), Unit("<c>", is_token=True), Unit("d")]
    stop = StopFilter(["b<c>de"])
    assert [stop.push(unit) for unit in units] == [[Unit("a")], [], []]
    assert stop.finish() == [Unit("b"), Unit("<c>", is_token=True), Unit("d")]


def test_the_text_behind_a_stop_string_is_known():
    matcher = StopMatcher(["b", "bc"])
    assert matcher.push("ab") == "a" and matcher.rest == ""
    matcher = StopMatcher(["b", "bc"])
    assert matcher.push("abcd") == "a" and matcher.rest == "d"


def test_the_stop_string_may_be_part_of_the_text():
    matcher = StopMatcher(["bc", "c"], include=True)
    assert [matcher.push(text) for text in ("a", "b", "cd")] == ["a", "", "bc"]
    assert (matcher.stop, matcher.rest) == ("bc", "d")
    stop = StopFilter(["b<c>"], include=True)
    units = [*stop.push(Unit("ab")), *stop.push(Unit("<c>", is_token=True))]
    assert units == [Unit("a"), Unit("b"), Unit("<c>", is_token=True)] and stop.stop == "b<c>"


def test_nothing_ends_while_nobody_looks():
    """A stop string may begin there, as in vLLM."""
    matcher = StopMatcher(["abc"])
    assert matcher.push("xabc", looking=False) == "xabc" and not matcher.matched
    assert matcher.push("yab", looking=False) == "y"
    assert matcher.push("c") == "" and matcher.stop == "abc"
    matcher = StopMatcher(["ab", "abcd"])
    assert matcher.push("ab", looking=False) == "" and matcher.push("x") == "abx"
    assert matcher.push("ab", looking=False) == "" and matcher.push("cd") == "" and matcher.stop == "abcd"
    matcher = StopMatcher(["aa"])
    assert matcher.push("aa", looking=False) == "a" and matcher.push("a") == "" and matcher.stop == "aa"
