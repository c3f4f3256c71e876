"""The chat in a real terminal."""

import os
import re
from pathlib import Path

import pexpect
import pytest
import small_caches

ROOT = Path(__file__).parents[2]
CAPITAL = "What is the capital of France? Answer in one sentence."


NOISE = ("--temperature", "3", "--seed", "1")  # an answer that does not end by itself


@pytest.fixture
def start(tmp_path):
    """Starts `ellm run ...` in a terminal of its own."""
    children = []

    def spawn(*arguments):
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
        command, *rest = [*small_caches.ELLM, "run", *arguments]
        child = pexpect.spawn(
            command, rest, cwd=ROOT, env=environment, encoding="utf-8", timeout=30, dimensions=(40, 200)
        )
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.close(force=True)


@pytest.fixture
def chat(start):
    """Starts a chat and waits for its first prompt."""

    def spawn(*arguments):
        child = start("smollm2", *arguments)
        child.expect_exact("Ctrl-D leaves.")
        child.expect_exact("> ")
        return child

    return spawn


def reply(child):
    """What comes before the next prompt, without escape sequences."""
    child.expect(r"\r\n(?:\x1b\[\?2004h)?> ")
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", child.before).replace("\r", "")


def ask(child, line):
    """Sends a line and returns the reply, without the terminal's echo of the line."""
    child.sendline(line)
    return reply(child).partition("\n")[2].strip()


def end(child):
    """The exit code."""
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


def test_a_question_is_answered_and_ctrl_d_leaves(chat):
    child = chat()
    assert ask(child, CAPITAL) == "The capital of France is Paris."
    assert ask(child, "") == ""
    child.sendeof()
    assert end(child) == 0


def test_the_conversation_is_remembered_until_reset(chat):
    child = chat("--stats")
    first = ask(child, CAPITAL)
    assert "cache" not in first.partition("isa")[0]
    second = ask(child, "And that of Italy?")
    assert "Rome" in second and re.search(r"prefill +\d+ tokens \(\d+ more were in the cache\)", second)
    assert ask(child, "/reset") == "The conversation is forgotten."
    third = ask(child, CAPITAL)
    assert third.splitlines()[0] == first.splitlines()[0] and "more were in the cache" not in third


def test_commands(chat):
    child = chat("--max-tokens", "8")
    help_text = ask(child, "/help")
    assert all(word in help_text for word in ("/system", "/reset", "/help", "Ctrl-C", "Ctrl-D"))
    assert ask(child, "/dance") == "/dance is unknown; /help shows the commands."
    plain = ask(child, "Who are you?")
    assert plain.endswith("(cut at --max-tokens)")
    assert ask(child, "/system You are a pirate. Say arr.") == "The system message is set."
    assert ask(child, "Who are you?") != plain
    assert ask(child, "/system") == "There is no system message."
    assert ask(child, "Who are you?") == plain


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(chat):
    child = chat(*NOISE)
    child.sendline("Tell me a long story.")
    child.expect(r"\w+ \w+ \w+ \S+ \w+ \w+ \w+")
    child.expect(r"\S+ \S+")
    child.sendintr()
    assert reply(child).endswith("(stopped)")
    assert ask(child, "/reset") == "The conversation is forgotten."


def test_ctrl_c_at_the_prompt_leaves_with_130(chat):
    child = chat()
    child.sendintr()
    assert end(child) == 130


def test_lines_are_edited_and_remembered_across_chats(chat):
    child = chat()
    child.send("/halp\x1b[D\x1b[D\x7fe\r")  # twice left, backspace
    assert "/reset" in reply(child)
    child.send("\x1b[A\r")  # up
    assert "/reset" in reply(child)
    child.sendeof()
    assert end(child) == 0
    child = chat()
    child.send("\x1b[A\r")
    assert "/reset" in reply(child)


def test_a_full_context_is_said_and_does_not_end_the_chat(chat):
    child = chat("--context", "64", *NOISE)
    assert ask(child, "Tell me a story.").endswith("(the context of 64 tokens is full: /reset)")
    assert re.search(r"ellm: the prompt has \d+ tokens, the context has 64", ask(child, "Go on."))
    assert ask(child, "/reset") == "The conversation is forgotten."
    assert ask(child, "Again.").endswith("/reset)")


def test_without_a_model_the_chat_is_with_smollm2_and_says_so(start):
    child = start()
    child.expect_exact("smollm2")
    child.expect_exact("> ")
    assert ask(child, CAPITAL) == "The capital of France is Paris."


def test_raw_has_no_chat(start):
    child = start("smollm2", "--raw")
    child.expect_exact("ellm: --raw needs a PROMPT")
    assert end(child) == 2
