"""Content in parts and arguments of tool calls, in the form that a template takes."""

import pytest

from ellm.system.errors import InputError
from ellm.text.chat_template import ChatTemplate, Conversation

STRINGS = "{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}"
PARTS = "{% for m in messages %}<{% for p in m.content %}{{ p['text'] }}{% endfor %}>{% endfor %}"
BOTH = (
    "{% for m in messages %}<{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}>{% endfor %}"
)
PRINTS = "{% for m in messages %}<{{ m.content }}>{% endfor %}"  # a list would be shown as Python writes it
CALLS = "{% for m in messages %}{% for call in m.tool_calls or [] %}%s{% endfor %}{% endfor %}"


def render(text, *contents):
    return rendered(text, [{"role": "user", "content": content} for content in contents])


def rendered(text, messages):
    template = ChatTemplate(text, {}, "model")
    (found,) = template.render([template.arranged(Conversation(messages))])
    return found


@pytest.mark.parametrize("text", [STRINGS, PARTS, BOTH, PRINTS])
def test_one_text_in_whatever_form(text):
    forms = ["hi", ["hi"], [{"type": "text", "text": "hi"}], [{"type": "input_text", "text": "hi"}], [{"text": "hi"}]]
    assert {render(text, form) for form in forms} == {"<hi>"}


@pytest.mark.parametrize(("text", "joined"), [(STRINGS, "a\nb"), (PRINTS, "a\nb"), (PARTS, "ab"), (BOTH, "ab")])
def test_parts_go_to_templates_that_take_them_and_are_joined_for_others(text, joined):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(text, parts, "c") == f"<{joined}><c>"


def test_content_that_is_not_there_stays_so():
    assert rendered("{{ messages[0].content is none }}{{ messages[1].content is defined }}",
                    [{"role": "assistant", "content": None}, {"role": "user"}]) == "TrueFalse"  # fmt: skip


@pytest.mark.parametrize(
    "content, line",
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], r"is of type 'image_url', ellm reads text alone$"),
        ([{"type": "input_audio", "input_audio": {}}], r"is of type 'input_audio', ellm reads text alone$"),
        ([{"type": "text"}], r"must have a text, not \{'type': 'text'\}$"),
        ([{"type": "text", "text": 3}], "must have a text"),
        ([3], "must have a text, not 3$"),
        (3, "must be text or a list of parts, not 3$"),
        ({"type": "text", "text": "hi"}, "must be text or a list of parts"),
    ],
)
def test_content_that_is_refused(content, line):
    with pytest.raises(InputError, match=line):
        render(BOTH, content)


def call(arguments):
    function = {"name": "f", "arguments": arguments}
    return [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
    ]


@pytest.mark.parametrize(
    "form, text",
    [
        ("{{ call.function.arguments | tojson }}", '{"a": 1}'),  # Llama 3
        ("{% for k, v in call.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}", "a=1"),  # GLM
        ("{{ '`' + call.function.arguments + '`' }}", '`{"a": 1}`'),  # DeepSeek V3
        ("{{ call.function.arguments }}", '{"a": 1}'),
        (
            "{% if call.function.arguments is string %}{{ call.function.arguments }}"  # Qwen3
            "{% else %}{{ call.function.arguments | tojson }}{% endif %}",
            '{"a": 1}',
        ),
    ],
)
@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_arguments_of_tool_calls_in_either_form(form, text, arguments):
    assert rendered(CALLS.replace("%s", form), call(arguments)) == text


def test_arguments_that_are_no_object():
    for arguments, line in (("{", "are not JSON"), ("[1]", r"must be an object, not \[1\]")):
        with pytest.raises(InputError, match=line):
            rendered(CALLS.replace("%s", "{{ call.function.arguments.items() }}"), call(arguments))


OSS = (  # as gpt-oss has it
    "{% for m in messages %}{% if m.tool_calls %}{% if m.content and m.thinking %}{{ raise_exception('both') }}"
    "{% endif %}({{ m.thinking }}){{ m.content }}!{% else %}<{{ m.content }}>{% endif %}{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_goes_by_all_of_its_names(name):
    message = {"role": "assistant", "content": "", name: "hm", "tool_calls": [CALL]}
    assert rendered(OSS, [message]) == "(hm)!"
    assert rendered("{% for m in messages %}{{ m.reasoning_content }}{% endfor %}", [message]) == "hm"


def test_text_before_a_call_joins_the_reasoning_where_a_template_refuses_both():
    message = {"role": "assistant", "content": "Look:", "thinking": "hm", "tool_calls": [CALL]}
    assert rendered(OSS, [message]) == "(hm\n\nLook:)!"
    free = OSS.replace("raise_exception('both')", "''")
    assert rendered(free, [message]) == "(hm)Look:!"
    assert rendered(OSS, [{**message, "thinking": ""}]) == "()Look:!"
