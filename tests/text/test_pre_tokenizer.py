"""Pre-tokenizers: where they cut. Their ids against llama.cpp's are in tests/checkpoint/test_ggml_ids.py."""

import unicodedata

import pytest
from odd_texts import odd_texts

from ellm.text.ggml_pre_tokenizers import PRE_TOKENIZERS
from ellm.text.unicode_categories import categories

TEXT = "it's 1234 cafés\n\n  x=5,\t12"
CUTS = {
    "smollm": "it|'s| |1|2|3|4| cafés|\n\n | x|=|5|,|\t|1|2",
    "gpt-2": "it|'s| 1234| cafés|\n\n | x|=|5|,|\t|12",
    "default": "it|'|s| |123|4| cafés|\n\n | x|=|5|,|\t|12",
    "llama-bpe": "it|'s| |123|4| cafés|\n\n| | x|=|5|,|\t|12",
    "qwen2": "it|'s| |1|2|3|4| cafés|\n\n| | x|=|5|,|\t|1|2",
    "tekken": "it|'s| |1|2|3|4| cafés|\n\n| | x|=|5|,|\t|1|2",
    "gpt-4o": "it's| |123|4| cafés|\n\n| | x|=|5|,|\t|12",
    "deepseek-v3": "it|'s| |123|4| cafés|\n\n| | x|=|5|,|\t|12",
    "tiny_aya": "it's| |1|234| cafés|\n\n| | x|=|5|,|\t|12",
    "superbpe": "it's |1|234| cafés\n\n  x=|5|,\t|12",
    "gemma4": "it's 1234 cafés|\n\n|  x=5,\t12",
    "poro-chat": "it's| 1234| cafés|\n\n | x=5|,\t|12",
}
UNIQUE = list({pre.rule: name for name, pre in PRE_TOKENIZERS.items()}.values())


@pytest.mark.parametrize("name", CUTS)
def test_cuts(name):
    assert PRE_TOKENIZERS[name].cut(TEXT) == CUTS[name].split("|")


@pytest.mark.parametrize("name", UNIQUE)
def test_nothing_is_lost(name):
    pre = PRE_TOKENIZERS[name]
    assert pre.cut("") == []
    for text in odd_texts(200, seed=3):
        pieces = pre.cut(text)
        assert "".join(pieces) == text and all(pieces)


@pytest.mark.parametrize(
    "text", ["1" * 50_000, "a " * 25_000, "\n" * 50_000, "é" * 50_000, "A" * 50_000 + "1", " " * 50_000]
)
@pytest.mark.parametrize("name", UNIQUE)
def test_long_runs_take_no_longer_than_their_length(name, text):
    assert "".join(PRE_TOKENIZERS[name].cut(text)) == text


def test_the_case_of_letters_outside_ascii_is_not_known():
    assert PRE_TOKENIZERS["gpt-4o"].cut("aBÉcÀDéF") == ["a", "BÉcÀ", "Dé", "F"]


def test_digits_in_threes_keep_what_is_before_them():
    """So the white space before them is cut as in the middle of a text, not as at its end."""
    assert PRE_TOKENIZERS["afmoe"].cut("a  12345") == ["a", " ", " ", "12", "345"]


def test_categories_are_those_of_unicode():
    for code, ours in enumerate(map(chr, categories()), 0x80):
        theirs = unicodedata.category(chr(code))
        if theirs != "Cn" and ours != "C":  # assigned in both versions
            assert ours == theirs[0], hex(code)


def test_code_points_that_later_versions_assign_are_others():
    assert chr(categories()[0x10D4A - 0x80]) == "C"  # a letter of Garay, Unicode 16
    assert chr(categories()[0x2EBF0 - 0x80]) == "L"  # CJK extension I, Unicode 15.1
