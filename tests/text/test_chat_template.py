"""Chat templates: their variables, and that a hostile one is ended."""

import os
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.system.errors import InputError
from ellm.text.chat_template import ChatTemplate, Conversation
from ellm.text.template_process import PROCESS

MESSAGES = [{"role": "user", "content": "hi"}]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
FRAGMENTS = [
    *("{{ ", " }}", "{% ", " %}", "for m in messages", "endfor", "if ", "endif", "else", "set x = ", "x", "messages"),
    *(
        "m.content",
        "[-1]",
        ".split('a')",
        " ~ ",
        " * ",
        "10 ** 9",
        "'a'",
        "|tojson",
        "|length",
        "|center(99)",
        "range(9)",
    ),
    *(
        "namespace(a=1)",
        "raise_exception('no')",
        "macro f(x)",
        "endmacro",
        "f(1)",
        "(",
        ")",
        "{#",
        "#}",
        "\ud800",
        "\0",
    ),
    *("is defined", "not ", "none", ".__class__", "recursive", "loop(x)", "break", "generation", "endgeneration"),
]
# How families switch thinking: Qwen3, SmolLM3 (a default that the template itself sets), DeepSeek V3.1.
SWITCHES = {
    "enable_thinking": "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}",
    "with_default": "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% if not enable_thinking %}<think></think>{% endif %}",
    "thinking": "{% if not thinking is defined %}{% set thinking = true %}{% endif %}"
    "{% if not thinking %}<think></think>{% endif %}",
}


def render(text, messages=MESSAGES, tools=None, **variables):
    template = ChatTemplate(text, {"bos_token": "<s>"}, "model")
    rendered = template.render([template.arranged(Conversation(messages, True, tools, variables))])[0]
    if isinstance(rendered, InputError):
        raise rendered
    return rendered


@pytest.mark.parametrize("text", SWITCHES.values(), ids=SWITCHES)
def test_the_variable_that_switches_thinking(text):
    template = ChatTemplate(text, {}, "model")
    assert render(text) == render(text, **template.thinking(True)) == ""
    assert render(text, **template.thinking(False)) == "<think></think>"


def test_a_template_without_the_switch():
    template = ChatTemplate(
        "{{ bos_token }}{{ reasoning_effort }}{{ messages }}{{ raise_exception('no') }}", {}, "model"
    )
    line = (
        r"^model: chat_template has no switch for thinking \(enable_thinking, thinking\); it reads bos_token, reasoning"
    )
    with pytest.raises(InputError, match=line):
        template.thinking(False)


def test_variables():
    assert render("{{ effort }} {{ tags | join }} {{ bos_token }}", effort=3, tags=["a", "b"], bos_token="") == "3 ab "
    with pytest.raises(InputError, match=r"^model: chat_template does not read 'efort'; it reads effort$"):
        render("{{ effort }}", efort="high")
    with pytest.raises(
        InputError, match=r"^model: chat_template does not read 'x'; it reads no others than messages and"
    ):
        render("{{ messages }}", x=1)
    with pytest.raises(InputError, match=r"^tools is no variable of chat_template_kwargs but an argument of its own$"):
        ChatTemplate("{{ tools }}", {}, "model").arranged(Conversation(MESSAGES, True, None, {"tools": []}))
    with pytest.raises(InputError, match=r"must be JSON"):
        render("{{ effort }}", effort=object())


@pytest.mark.parametrize(
    "text, words",
    [
        (ENDLESS, "takes more than 1 s"),
        ("{{ 'a' * 10 ** 10 }}", "takes too much memory"),
        ("{{ 'a' | center(10 ** 10) }}", "takes too much memory"),
        ("{% set ns = namespace(s='a' * 2 ** 20) %}{% for i in range(4) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
         "{{ ns.s ~ ns.s }}", "makes more than 16777216 characters"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "maximum recursion depth"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
    ],
    ids=range(7),
)  # fmt: skip
def test_hostile_templates_end_with_one_line(text, words):
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT), threading.active_count()
    with pytest.raises(InputError) as caught:
        render(text)
    assert words in str(caught.value) and str(caught.value).startswith("model: chat_template")
    assert (signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT), threading.active_count()) == before
    assert render("{{ messages[0].content }}") == "hi"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join) | st.text())
def test_any_template_makes_a_text_or_one_line(text):
    try:
        assert isinstance(render(text), str)
    except InputError as error:
        assert str(error).startswith("model: chat_template") and "\n" not in str(error)


def test_threads_take_turns():
    """A hostile template in one thread ends there, and others get their own texts."""
    found = {}

    def work(number):
        try:
            found[number] = render(ENDLESS if number == 3 else f"{{{{ messages[0].content }}}}{number}")
        except InputError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = found.pop(3)
    assert "takes more than 1 s" in ended and found == {number: f"hi{number}" for number in range(8) if number != 3}


def test_an_interrupted_answer_is_not_that_of_the_next_request():
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        render(ENDLESS)
    timer.join()
    assert render("{{ messages[0].content }}") == "hi"


def test_a_dead_process_is_replaced():
    render("x")
    os.kill(PROCESS._child.pid, signal.SIGKILL)
    PROCESS._child.wait()
    assert render("{{ messages[0].content }}") == "hi"


def test_a_forked_process_renders_by_its_own():
    render("x")
    child = os.fork()
    if not child:
        os._exit(0 if render("{{ messages[0].content }}") == "hi" and PROCESS._owner == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert render("{{ messages[0].content }}") == "hi"


def test_all_texts_of_a_request_have_the_same_time():
    template = ChatTemplate("{{ strftime_now('%s %f') }}", {}, "model")
    assert len(set(template.render([template.arranged(Conversation(MESSAGES))] * 3))) == 1


def test_large_conversations_pass_the_pipes():
    text = "é" * 3_000_000
    assert render("{{ messages[0].content }}", [{"role": "user", "content": text}]) == text
