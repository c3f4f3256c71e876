"""Reasoning through the Python API: apart from the answer in a chat, in the text of a plain prompt."""

import dataclasses

import pytest
import tiny
from scripted import write_scripted

from ellm import LLM, InputError, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=20)
QUESTION = [{"role": "user", "content": "hi"}]
WORDS = ["WHY ", "NOT", "YES"]
HARMONY = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]
SAID = ["\u010a", "WHY ", "NOT", "<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "YES"]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    script = ["\u010a", "<think>", "WHY ", "NOT", "</think>", "YES", "<|im_end|>"]
    marks = ["<think>", "</think>"]
    folder = tmp_path_factory.mktemp("thinker") / "model"
    write_scripted(folder, script, template=tiny.CHAT_TEMPLATE, added=[*WORDS, *marks], eos="<|im_end|>")
    with LLM(folder, threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def harmony(tmp_path_factory):
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
        "<|start|>assistant<|channel|>analysis<|message|>{{ '\n' }}"
    )
    folder, words = tmp_path_factory.mktemp("harmony") / "model", ["assistant", "final", *WORDS]
    script = [*SAID, "<|return|>"]
    write_scripted(folder, script, template=template, special=HARMONY, added=words, eos="<|return|>")
    with LLM(folder, threads=1) as llm:
        yield llm


def test_a_chat_tells_reasoning_from_the_answer(thinker):
    (output,) = thinker.chat(QUESTION, GREEDY)
    assert (output.text, output.reasoning, output.finish_reason) == ("YES", "WHY NOT", "stop")
    assert output.metrics.reasoning_tokens == 2
    thought = {"reasoning_content": "WHY NOT", "thinking": "WHY NOT"}
    assert output.message == {"role": "assistant", "content": "YES"} | thought


def test_a_plain_prompt_is_continued_by_everything(thinker):
    (output,) = thinker.generate("hi\n", GREEDY)
    assert (output.text, output.reasoning) == ("<think>WHY NOT</think>YES", None)
    assert output.message == {"role": "assistant", "content": output.text}
    assert "".join(thinker.stream("hi\n", GREEDY)) == output.text


def test_a_stream_gives_the_answer_and_its_pieces_the_reasoning_too(thinker):
    assert list(thinker.stream_chat(QUESTION, GREEDY)) == ["YES"]
    stream = thinker.stream_chat(QUESTION, GREEDY)
    assert [(piece.text, piece.kind) for piece in stream.pieces()] == [
        ("WHY", "reasoning"),
        (" NOT", "reasoning"),
        ("YES", "answer"),
    ]
    assert stream.output == dataclasses.replace(thinker.chat(QUESTION, GREEDY)[0], metrics=stream.output.metrics)


def test_an_answer_that_is_cut_within_its_reasoning_is_empty(thinker):
    (output,) = thinker.chat(QUESTION, dataclasses.replace(GREEDY, max_tokens=3))
    assert (output.text, output.reasoning, output.finish_reason) == ("", "WHY NOT", "length")


def test_stop_token_ids_end_the_text_before_them(thinker):
    stop = thinker.tokenizer.backend.token_to_id("NOT")
    for ignore_eos in (False, True):
        params = dataclasses.replace(GREEDY, stop_token_ids=[stop], ignore_eos=ignore_eos)
        (output,) = thinker.chat(QUESTION, params)
        assert (output.reasoning, output.token_ids[-1], output.finish_reason) == ("WHY", stop, "stop")
    with pytest.raises(InputError, match=r"^stop_token_ids: token id 5000 is not in the vocabulary of 331$"):
        thinker.chat(QUESTION, SamplingParams(stop_token_ids=[5000]))


def test_channels_are_told_apart(harmony):
    (output,) = harmony.chat(QUESTION, GREEDY)
    assert (output.text, output.reasoning, output.finish_reason) == ("YES", "WHY NOT", "stop")


def test_names_of_channels_do_not_run_into_the_text_of_a_plain_prompt(harmony):
    (output,) = harmony.generate([harmony.tokenizer.chat(QUESTION)], GREEDY)
    assert output.text == "".join(SAID[1:])


@pytest.mark.parametrize(
    ("stop", "before"), [("<|end|>", "WHY NOT"), ("NOT<|end|><|start|>", "WHY "), ("|end", "WHY NOT")]
)
def test_a_special_token_stops(harmony, stop, before):
    (output,) = harmony.chat(QUESTION, dataclasses.replace(GREEDY, stop=stop))
    assert (output.text, output.reasoning, output.finish_reason) == ("", before, "stop")
