"""Answers that keep to a schema, an expression, one of some texts or a grammar."""

import dataclasses
import json
import re
import time

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import write_scripted
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams, StructuredOutputs
from ellm.serving import lookup, speculation
from ellm.serving.constraint import Constraint
from ellm.serving.step_costs import StepCosts

SCHEMA = {
    "type": "object",
    "properties": {
        "the name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
        "kind": {"enum": ["rather red", "rather green"]},
    },
    "required": ["the name", "count", "kind"],
    "additionalProperties": False,
}
KINDS = {
    "json": StructuredOutputs(json=SCHEMA),
    "regex": StructuredOutputs(regex="(ab|the )+[0-9]{3,5}"),
    "choice": StructuredOutputs(choice=["another answer", "another one", "none"]),
    "lark": StructuredOutputs(grammar='start: "<" item ("," item)* ">"\nitem: /[a-c]{2,4}/'),
    "gbnf": StructuredOutputs(grammar='root ::= "no" root | "yes"'),
}
PATTERNS = {
    "regex": "(ab|the )+[0-9]{3,5}",
    "choice": "another answer|another one|none",
    "lark": "<[a-c]{2,4}(,[a-c]{2,4})*>",
    "gbnf": "(no)*yes",
}
PARAMS = SamplingParams(temperature=0, max_tokens=150)


def asking(kind, **params):
    return dataclasses.replace(PARAMS, structured_outputs=KINDS[kind], **params)


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_as_they_must_be(llm, kind, temperature):
    for one in llm.generate("the end", asking(kind, temperature=temperature, seed=1, n=4, logit_bias={2: 4})):
        if one.finish_reason == "length":
            continue
        if kind == "json":
            answer = json.loads(one.text)
            assert [*answer] == ["the name", "count", "kind"] and len(answer["the name"]) <= 8
            assert answer["kind"].startswith("rather ") and 0 <= answer["count"] <= 999
        else:
            assert re.fullmatch(PATTERNS[kind], one.text), one.text


def test_the_log_probabilities_are_those_of_the_model(llm):
    """Of forced tokens too: what is not allowed takes no part of the sum away."""
    (output,) = llm.generate("the end", asking("json", logprobs=2))
    logits = llm.logits(output.prompt_token_ids + output.token_ids)[len(output.prompt_token_ids) - 1 : -1]
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(output.logprobs, exact[range(len(exact)), output.token_ids], atol=1e-4)
    assert [[*top] for top in output.top_logprobs] == np.argsort(-logits, axis=1)[:, :2].tolist()


def test_forced_tokens_take_no_steps(checkpoint):
    text = "this is the only one that there is"
    params = dataclasses.replace(PARAMS, structured_outputs=StructuredOutputs(choice=[text]))
    with LLM(checkpoint, speculate="off") as llm:
        (output,) = llm.generate("x", params)
        assert (output.text, output.finish_reason) == (text, "stop")
        assert output.token_ids[:-1] == llm.tokenizer.encode(text), "as the model's own tokenizer writes it"
        assert output.metrics.steps == 1, "beside the prompt, and the end drawn behind them"
        (cut,) = llm.generate("x", dataclasses.replace(params, max_tokens=7))
        assert cut.token_ids == output.token_ids[:7] and cut.finish_reason == "length"
        (stopped,) = llm.generate("x", dataclasses.replace(params, stop="only"))
        assert (stopped.text, stopped.stop_reason) == ("this is the ", "only")
    with LLM(checkpoint, chunk=3) as llm:
        (again,) = llm.generate("x", params)
        assert (again.token_ids, again.logprobs) == (output.token_ids, output.logprobs)
        assert again.metrics.steps > 5


def test_the_end_of_the_grammar_counts_more_than_min_tokens(llm):
    (output,) = llm.generate("x", asking("choice", min_tokens=100))
    assert output.finish_reason == "stop" and re.fullmatch(PATTERNS["choice"], output.text)


def test_what_follows_the_end_is_free(llm):
    (output,) = llm.generate("x", asking("choice", ignore_eos=True, max_tokens=60))
    assert re.match(PATTERNS["choice"], output.text) and len(output.token_ids) == 60


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same model with drafts, as many as there are whatever they cost, and without."""
    folder = write_checkpoint(tmp_path_factory.mktemp("pair") / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speculation, "WORTH", 0)
        patch.setattr(lookup, "RUNS", (2, 1))
        patch.setattr(StepCosts, "expected", lambda costs: [(rows, 1.0) for rows in costs._rows])
        with LLM(folder) as with_drafts, LLM(folder, speculate="off", threads=1, chunk=16) as without:
            yield with_drafts, without


REQUEST = st.tuples(
    st.lists(st.sampled_from(["the ", "ab", "no", "yes", "x", "rather red", "12"]), min_size=1, max_size=8).map(
        "".join
    ),
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0, 0.7, 2.0]),
        seed=st.integers(0, 99),
        max_tokens=st.integers(1, 60).map(lambda n: n + 3),
        min_tokens=st.integers(0, 4),
        logprobs=st.none() | st.integers(0, 3),
        prompt_logprobs=st.none() | st.integers(0, 3),
        frequency_penalty=st.sampled_from([0.0, 0.5]),
        repeat_penalty=st.sampled_from([1.0, 1.2]),
        stop=st.sampled_from([None, "e"]),
        structured_outputs=st.none() | st.sampled_from([*KINDS.values()]),
    ),
)


@settings(max_examples=30, deadline=None)
@given(requests=st.lists(REQUEST, min_size=1, max_size=4))
def test_drafts_and_company_change_nothing(pair, requests):
    with_drafts, without = pair
    prompts, params = zip(*requests, strict=True)
    bare = lambda outputs: [dataclasses.replace(one, metrics=None) for one in outputs]  # noqa: E731
    together = bare(with_drafts.generate([*prompts], [*params]))
    assert together == bare(without.generate([*prompts], [*params]))
    assert together == [bare(without.generate(*request))[0] for request in requests]


def test_drafts_within_a_grammar_are_verified(pair):
    grammar = StructuredOutputs(grammar='start: /(abcab)+/ "."')
    params = SamplingParams(temperature=0, max_tokens=60, structured_outputs=grammar, logit_bias={17: -50})
    outputs = [llm.generate("abcababcababcab", params)[0] for llm in pair]
    assert outputs[0].token_ids == outputs[1].token_ids
    assert outputs[0].metrics.steps < outputs[1].metrics.steps


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"regex": "ab(c"}, "structured_outputs: regex: .*unclosed group"),
        ({"regex": "(?=a)b"}, "structured_outputs: regex: .*look-around"),
        ({"json": "{"}, "structured_outputs: json: "),
        ({"json": {"$ref": "http://example.com/x.json"}}, "structured_outputs: json: .*does not fetch"),
        ({"json": {"not": {"type": "string"}}}, "structured_outputs: json: .*not"),
        ({"json": '{"properties":{"a":' * 900 + "{}" + "}}" * 900}, "structured_outputs: json: .*recursion"),
        ({"grammar": "start: x"}, "structured_outputs: grammar: .*unknown name"),
        ({"grammar": 'root ::= ("a"'}, "structured_outputs: grammar: "),
        ({"grammar": "start: " + '("a" | ' * 900 + '"b"' + ")" * 900}, "structured_outputs: grammar: .*nested"),
        ({"grammar": "root ::= " + "(" * 5000 + '"b"' + ")" * 5000}, "structured_outputs: grammar: "),
    ],
)
def test_what_is_no_grammar_is_said_in_a_line(llm, wanted, message):
    with pytest.raises(InputError, match=message) as caught:
        llm.generate("x", SamplingParams(structured_outputs=StructuredOutputs(**wanted)))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert llm.generate("x", SamplingParams(max_tokens=1))[0].token_ids


def test_a_grammar_that_grows_too_complex_ends_its_request_alone(llm, monkeypatch):
    params = asking("regex")
    expected = llm.generate("x", PARAMS)[0].token_ids
    monkeypatch.setattr("ellm.serving.grammar_trial.LEXER_STATES", 30)
    broken = StructuredOutputs(regex="(a|b)*a(a|b){9}c")
    stream = llm.stream("x", dataclasses.replace(params, structured_outputs=broken, logit_bias={2: -100}))
    assert llm.generate("x", PARAMS)[0].token_ids == expected
    with pytest.raises(InputError, match=r"structured_outputs: lexer error: too many states: 30 >= 30$"):
        _ = [*stream]


def test_steps_wait_for_masks_that_take_long(llm, monkeypatch):
    kinds = [asking(kind, temperature=1.5, seed=3) for kind in ("regex", "choice", "lark")]
    expected = [one.token_ids for one in llm.generate(["x"] * 3, kinds)]
    lay_out = Constraint.lay_out

    def slowly(*arguments):
        time.sleep(0.01)
        return lay_out(*arguments)

    monkeypatch.setattr(Constraint, "lay_out", slowly)
    assert [one.token_ids for one in llm.generate(["x"] * 3, kinds)] == expected


def test_masks_that_cannot_be_made_end_their_request_alone(llm, monkeypatch):
    (expected,) = llm.generate("x", PARAMS)
    lay_out = Constraint.lay_out

    def broken(constraint, drafts, masks, given):
        if constraint._followed == 3:
            raise RuntimeError("broken")
        return lay_out(constraint, drafts, masks, given)

    monkeypatch.setattr(Constraint, "lay_out", broken)
    stream = llm.stream("x", asking("lark"))
    assert llm.generate("x", PARAMS)[0].token_ids == expected.token_ids
    with pytest.raises(RuntimeError, match="broken"):
        _ = [*stream]
    assert llm.generate("x", asking("choice"))[0].finish_reason == "stop"


def test_a_model_without_text_refuses(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with LLM(folder) as llm, pytest.raises(InputError, match="has no tokenizer, so structured_outputs"):
        llm.generate([[1]], asking("regex"))


WORDS, MARKS = ["WHY ", "NOT", "YES", "NO"], ["<think>", "</think>"]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinker") / "model"
    script = ["\u010a", "<think>", "WHY ", "NOT", "</think>", "YES", "<|im_end|>"]
    write_scripted(folder, script, template=tiny.CHAT_TEMPLATE, added=[*WORDS, *MARKS], eos="<|im_end|>")
    with LLM(folder, threads=1) as llm:
        yield llm


def test_reasoning_is_free_and_the_answer_is_bound(thinker):
    wanted = StructuredOutputs(choice=["NO", "NEVER"])
    params = SamplingParams(temperature=0, max_tokens=20, structured_outputs=wanted)
    (output,) = thinker.chat([{"role": "user", "content": "hi"}], params)
    assert output.reasoning == "WHY NOT" and output.text in ("NO", "NEVER") and output.finish_reason == "stop"
    (plain,) = thinker.generate("hi\n", params)
    assert plain.text in ("NO", "NEVER"), "a plain text has no reasoning"


@pytest.mark.parametrize("channel", ["final", "analysis"])
def test_the_grammar_of_harmony_begins_with_the_final_message(tmp_path, channel):
    harmony = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]
    template = "<|start|>assistant<|channel|>" + channel + "<|message|>{{ '\n' }}"
    script = [
        "\u010a",
        "WHY ",
        "NOT",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "final",
        "<|message|>",
        "YES",
    ]
    folder = tmp_path / "model"
    words = ["assistant", "final", "analysis", *WORDS]
    write_scripted(folder, [*script, "<|return|>"], template=template, special=harmony, added=words, eos="<|return|>")
    params = SamplingParams(temperature=0, max_tokens=20, structured_outputs=StructuredOutputs(choice=["NO", "NEVER"]))
    with LLM(folder, threads=1) as llm:
        (output,) = llm.chat([{"role": "user", "content": "hi"}], params)
    assert output.text in ("NO", "NEVER") and output.reasoning == ("WHY NOT" if channel == "analysis" else None)
