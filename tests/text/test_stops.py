"""Stop strings in text that comes in pieces."""

import pytest

from ellm.text.stops import StopMatcher


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
