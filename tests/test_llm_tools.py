"""Calls of tools through the Python API: apart from the answer, and in the message for the next turn."""

import dataclasses
import json

import pytest
from scripted import write_scripted

from ellm import LLM, InputError, SamplingParams, StructuredOutputs

STRUCTURED = SamplingParams(structured_outputs=StructuredOutputs(choice=["a"]))
GREEDY = SamplingParams(temperature=0, max_tokens=20)
QUESTION = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}]
CALL = ['{"name": ', '"time", ', '"arguments": ', '{"zone": ', '"CET"}}']
TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c.id }}</tool_call>{% endfor %}{% endfor %}{{ '\n' }}"
)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    words = ["Look: ", *CALL]
    script = ["\u010a", "Look: ", "<tool_call>", *CALL, "</tool_call>", "<|im_end|>"]
    folder = tmp_path_factory.mktemp("caller") / "model"
    write_scripted(folder, script, template=TEMPLATE, added=[*words, "<tool_call>", "</tool_call>"], eos="<|im_end|>")
    with LLM(folder, threads=1) as llm:
        yield llm


def test_a_call_is_told_from_the_answer(llm):
    (output,) = llm.chat(QUESTION, GREEDY, tools=TOOLS)
    assert (output.text, output.finish_reason) == ("Look:", "tool_calls")
    ((id, name, arguments),) = output.tool_calls
    assert (name, json.loads(arguments)) == ("time", {"zone": "CET"})
    assert id.isalnum() and len(id) == 9
    function = {"name": "time", "arguments": arguments}
    assert output.message == {
        "role": "assistant",
        "content": "Look:",
        "tool_calls": [{"id": id, "type": "function", "function": function}],
    }
    assert f'<tool_call>time{{"zone": "CET"}}{id}</tool_call>' in llm.tokenizer.render([*QUESTION, output.message])


def test_a_stream_has_the_name_first_and_then_the_arguments(llm):
    stream = llm.stream_chat(QUESTION, GREEDY, tools=TOOLS)
    pieces = list(stream.pieces())
    assert [(piece.kind, piece.index, piece.name) for piece in pieces] == [
        ("answer", None, None),
        ("tool", 0, "time"),
        ("tool", 0, None),
    ]
    assert json.loads("".join(piece.text for piece in pieces[1:])) == {"zone": "CET"}
    assert pieces[1].id == stream.output.tool_calls[0].id
    whole = llm.chat(QUESTION, GREEDY, tools=TOOLS)[0]
    assert stream.output == dataclasses.replace(whole, metrics=stream.output.metrics)
    assert list(llm.stream_chat(QUESTION, GREEDY, tools=TOOLS)) == ["Look:"]


def test_without_tools_or_with_none_a_call_is_text(llm):
    said = "Look: <tool_call>" + "".join(CALL) + "</tool_call>"
    for options in ({}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}):
        (output,) = llm.chat(QUESTION, GREEDY, **options)
        assert (output.text, output.tool_calls, output.finish_reason) == (said, [], "stop")
    (output,) = llm.chat(QUESTION, GREEDY, tools=TOOLS, tool_parser="mistral")
    assert (output.text, output.tool_calls) == (said, [])


DATE = {"name": "date", "parameters": {"type": "object", "properties": {"of": {"enum": ["x"]}}, "required": ["of"]}}


@pytest.mark.parametrize("stream", [False, True])
def test_calls_can_be_demanded(llm, stream):
    """The model would say other things: it is made to call the tool that is named, with what its schema allows."""

    def answer(**options):
        params = dataclasses.replace(GREEDY, max_tokens=200)
        if not stream:
            return llm.chat(QUESTION, params, tools=[*TOOLS, {"type": "function", "function": DATE}], **options)[0]
        found = llm.stream_chat(QUESTION, params, tools=[*TOOLS, {"type": "function", "function": DATE}], **options)
        assert "".join(found) == ""
        return found.output

    output = answer(tool_choice={"type": "function", "function": {"name": "date"}})
    assert [(call.name, json.loads(call.arguments)) for call in output.tool_calls] == [("date", {"of": "x"})]
    assert (output.text, output.finish_reason) == ("", "tool_calls")
    called = answer(tool_choice="required").tool_calls
    assert called and all(call.name in ("time", "date") for call in called)


def test_a_call_can_be_demanded_of_a_model_whose_reasoning_is_a_message_too(tmp_path):
    marks = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>"]
    script = ["assistant", "<|channel|>", "final", "<|message|>", "YES", "<|return|>"]
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
    )
    words = ["assistant", "final", "YES"]
    folder = write_scripted(tmp_path / "model", script, template=template, special=marks, added=words, eos="<|return|>")
    with LLM(folder, threads=1) as llm:
        assert llm.chat(QUESTION, GREEDY)[0].text == "YES"
        choice = {"type": "function", "function": {"name": "date"}}
        bias = {llm.tokenizer.encode("a")[0]: -100.0}  # or it would begin with an analysis, and find no end of it
        params = dataclasses.replace(GREEDY, max_tokens=100, logit_bias=bias)
        (output,) = llm.chat(QUESTION, params, tools=[*TOOLS, DATE], tool_choice=choice)
    assert [(call.name, json.loads(call.arguments)) for call in output.tool_calls] == [("date", {"of": "x"})]
    assert (output.text, output.finish_reason) == ("", "tool_calls")


def test_a_call_that_is_cut_is_none(llm):
    (output,) = llm.chat(QUESTION, dataclasses.replace(GREEDY, max_tokens=5), tools=TOOLS)
    assert (output.text, output.tool_calls, output.finish_reason) == ("Look:", [], "length")
    assert "tool_calls" not in output.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": "time"}, "^tools must be a list of functions, not 'time'$"),
        ({"tools": [{"type": "function"}]}, r"^a tool must be a function with a name, not \{'type': 'function'\}$"),
        ({"tools": TOOLS * 2000}, "^tools has 2000 functions, at most 1024 are allowed$"),
        ({"tools": [{"name": "x", "parameters": [1]}]}, "^parameters of tool 'x' must be a JSON schema$"),
        ({"tools": TOOLS, "tool_parser": "nope"}, "^tool_parser must be one of openai, .*, not 'nope'$"),
        ({"tools": TOOLS, "tool_choice": "some"}, "^tool_choice must be .*, not 'some'$"),
        (
            {"tools": TOOLS, "tool_choice": {"function": "time"}},
            r"^tool_choice must be .*, not \{'function': 'time'\}$",
        ),
        ({"tool_choice": "required"}, "^tool_choice is 'required', but no tools are given$"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "date"}}},
            "^tool_choice: 'date' is none of the tools, which are 'time'$",
        ),
        (
            {"tools": TOOLS, "tool_choice": "required", "sampling_params": STRUCTURED},
            "^structured_outputs and a tool_choice that demands calls exclude each other$",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(llm, options, message):
    with pytest.raises(InputError, match=message):
        llm.chat(QUESTION, **{"sampling_params": GREEDY, **options})
    with pytest.raises(InputError, match=message):
        llm.stream_chat(QUESTION, **{"sampling_params": GREEDY, **options})


def test_a_conversation_that_comes_back_has_the_tokens_that_were_drawn(tmp_path):
    template = "{% for m in messages %}{{ m.content }}{{ '\n' if m.role == 'user' else '<|im_end|>' }}{% endfor %}"
    script = ["\u010a", "t", "h", "e", "<|im_end|>"]
    with LLM(write_scripted(tmp_path / "model", script, template=template, eos="<|im_end|>"), threads=1) as llm:
        question = [{"role": "user", "content": "What is there, and what is not?"}]
        (output,) = llm.chat(question, GREEDY)
        assert output.text == "the" and llm.tokenizer.encode("the") != output.token_ids[:-1]
        turn = question
        for streamed in (False, True, False):
            turn = [*turn, output.message, *QUESTION]
            known = output.prompt_token_ids + output.token_ids
            if streamed:
                stream = llm.stream_chat(turn, GREEDY)
                assert "".join(stream) == "the"
                output = stream.output
            else:
                (output,) = llm.chat(turn, GREEDY)
            assert output.prompt_token_ids[: len(known)] == known
            assert output.metrics.cached_tokens == len(known) - 1
            assert llm.tokenizer.decode(output.prompt_token_ids, False) == llm.tokenizer.render(turn)
        stream = llm.stream_chat(turn, GREEDY, salt=b"another")
        assert "".join(stream) == "the"
        assert stream.output.prompt_token_ids == llm.tokenizer.chat(turn) != output.prompt_token_ids
        other = [*QUESTION, {"role": "assistant", "content": "then"}, *QUESTION]
        (output,) = llm.chat(other, GREEDY)
        assert llm.tokenizer.decode(output.prompt_token_ids, False) == llm.tokenizer.render(other)
