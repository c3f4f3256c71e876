"""Grammars of answers that must be calls: llguidance takes them, and they take what the families write."""

import json

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from written_calls import ARGUMENTS, TOOLS, TWO, called, read, split, tokens_of

from ellm.system.errors import InputError
from ellm.text.families import Chat, Style

GEMMA = (
    '<|tool_call>call:weather{city:<|"|>Zürich "x"<|"|>,days:3,exact:true,tags:[<|"|>a<|"|>,<|"|>b<|"|>]}<tool_call|>'
)
DSML = (
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Zürich "x"'  # noqa: RUF001
    '</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'  # noqa: RUF001
    '<｜DSML｜parameter name="exact" string="false">true</｜DSML｜parameter>\n'  # noqa: RUF001
    '<｜DSML｜parameter name="tags" string="false">["a", "b"]</｜DSML｜parameter>\n</｜DSML｜invoke>\n'  # noqa: RUF001
    "</｜DSML｜function_calls>"  # noqa: RUF001
)
ONE = {  # the first call of TWO, in the words of the family
    **{name: text for name, text in TWO.items() if name not in ("openai", "minimax", "llama3_json", "pythonic")},
    "openai": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
    f"<|constrain|>json<|message|>{json.dumps(ARGUMENTS, ensure_ascii=False)}",
    "qwen3_coder": TWO["qwen3_coder"].replace("True", "true"),
    "minimax": TWO["minimax"].split("\n{")[0] + "\n{" + TWO["minimax"].split("\n{")[1] + "\n</tool_calls>",
    "llama3_json": TWO["llama3_json"].split(";")[0],
    "pythonic": '[weather(city="Zürich \\"x\\"", days=3, exact=true, tags=["a", "b"], )]',
    "llama4_pythonic": '<|python_start|>[weather(city="Zürich", days=3, )]<|python_end|>',
    "gemma4": GEMMA,
    "deepseek_v32": DSML,
}


class Letters:
    """Bytes and the marks of a family."""

    eos_token_id, bos_token_id = 256, None

    def __init__(self, marks):
        self.tokens = [bytes([byte]) for byte in range(256)] + [b"<|eot|>", *(mark.encode() for mark in marks)]
        self.special_token_ids = [256]

    def __call__(self, text):
        return list(text)


def taken(name, text, wanted=None, tools=TOOLS, are_tokens=True):
    """How much of a text a family's grammar takes, all of it, and whether it may end there."""
    marks = sorted(tokens_of(name) - {"<|eot|>"}) if are_tokens or name == "openai" else []
    ids = {mark: 257 + at for at, mark in enumerate(marks)}
    grammar = Style(marks, []).grammar(Chat(tools, name, must_call=True, name=wanted), ids)
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(Letters(marks))), grammar, log_level=0)
    assert not matcher.is_error(), f"{matcher.get_error()}\n{grammar}"
    tokens = []
    for part, is_mark in split(text, marks):
        tokens += [ids[part]] if is_mark else list(part.encode())
    count = matcher.validate_tokens(tokens)
    matcher.consume_tokens(tokens[:count])
    return count, len(tokens), matcher.is_accepting()


@pytest.mark.parametrize("are_tokens", [True, False])
@pytest.mark.parametrize("name", ONE)
def test_what_a_family_writes_is_taken(name, are_tokens):
    count, length, whole = taken(name, ONE[name], are_tokens=are_tokens)
    assert (count, whole) == (length, True)
    assert called(read(name, ONE[name], are_tokens=are_tokens))[0][0] == "weather"


@pytest.mark.parametrize("name", ONE)
def test_text_and_other_tools_are_not(name):
    assert taken(name, "Hello")[0] == 0
    count, length, whole = taken(name, ONE[name].replace("weather", "wether"))
    assert count < length and not whole


def test_one_tool_is_called_once():
    assert taken("hermes", ONE["hermes"].split("\n<tool_call>")[0], "weather")[2]
    count, length, _ = taken("hermes", ONE["hermes"], "weather")
    assert count < length
    count, length, _ = taken("hermes", ONE["hermes"], "time")
    assert count < length


def test_arguments_keep_to_the_schema():
    count, length, _ = taken("hermes", '<tool_call>\n{"name": "weather", "arguments": {"days": "x"}}\n</tool_call>')
    assert count < length
    count, length, _ = taken("glm45", TWO["glm45"].replace("<arg_value>3", "<arg_value>x"))
    assert count < length


def test_what_must_be_there_is():
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": ["x", "y"]}}, "required": ["a"]}
    tools = [{"name": "f", "parameters": schema}]
    begin, end = "<tool_call>\n<function=f>\n", "</function>\n</tool_call>"
    for text, right in {
        "<parameter=a>\n1\n</parameter>\n": True,
        "<parameter=a>\n1\n</parameter>\n<parameter=b>\nx\n</parameter>\n": True,
        "": False,
        '<parameter=b>\n"x"\n</parameter>\n': False,
    }.items():
        count, length, whole = taken("qwen3_coder", begin + text + end, tools=tools)
        assert ((count, whole) == (length, True)) == right, text


def test_a_model_whose_form_is_not_known_cannot_be_made_to_call():
    with pytest.raises(
        InputError, match=r"^tool_choice: it is not known how this model writes calls, so none can be demanded$"
    ):
        Style([], []).grammar(Chat(TOOLS), {})
