"""The chat in a real terminal."""

import os
import re
import shlex
from pathlib import Path

import pexpect
import pytest
import small_caches
import tiny
from scripted import write_scripted

from ellm import LLM, SamplingParams
from ellm.cli.chat import Chat

ROOT = Path(__file__).parents[2]
CAPITAL = "What is the capital of France? Answer in one sentence."


NOISE = ("--temperature", "3", "--seed", "1")  # an answer that does not end by itself


@pytest.fixture
def start(tmp_path):
    """Starts `ellm run ...` in a terminal of its own."""
    children = []

    def spawn(*arguments, stdout=None):
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
        command, *rest = [*small_caches.ELLM, "run", *arguments]
        if stdout is not None:
            command, rest = "sh", ["-c", f"{shlex.join([command, *rest])} > {shlex.quote(str(stdout))}"]
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
    assert third.splitlines()[0] == first.splitlines()[0]


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


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """The folder of a model that thinks `WHY NOT` before it answers `YES`."""
    script = ["\u010a", "<think>", "WHY ", "NOT", "</think>", "YES", "<|im_end|>"]
    words = ["WHY ", "NOT", "YES", "<think>", "</think>"]
    folder = tmp_path_factory.mktemp("thinker") / "model"
    return write_scripted(folder, script, template=tiny.CHAT_TEMPLATE, added=words, eos="<|im_end|>")


def test_thoughts_are_dimmed_and_fold_when_the_answer_begins(start, thinker):
    child = start(str(thinker), "hi", "--threads", "1")
    child.expect(re.escape("\x1b[2mWHY"))
    child.expect(r"\x1b\[1A\x1b\[2K|\x1b\[2K")
    child.expect(re.escape("\x1b[2m(thought for 2 tokens)\x1b[0m\r\n"))
    child.expect(re.escape("YES\r\n"))
    assert end(child) == 0


def test_an_answer_that_never_comes_is_said(start, thinker):
    child = start(str(thinker), "hi", "--threads", "1", "--max-tokens", "3")
    child.expect_exact("(thought for 2 tokens, and did not answer)")
    assert end(child) == 0


def test_thoughts_are_not_written_where_the_answer_goes(start, thinker, tmp_path, in_process):
    child = start(str(thinker), "hi", "--threads", "1", stdout=tmp_path / "answer")
    child.expect_exact("(thought for 2 tokens)")
    assert end(child) == 0 and (tmp_path / "answer").read_text() == "YES\n"
    assert in_process("run", thinker, "hi", "--threads", "1") == (0, "YES\n", "")


def test_the_conversation_keeps_thoughts_apart(thinker):
    with LLM(thinker, threads=1) as llm:
        chat = Chat(llm, SamplingParams(temperature=0, max_tokens=20), None, {})
        chat.answer("hi")
    thought = {"reasoning_content": "WHY NOT", "thinking": "WHY NOT"}
    assert chat.messages == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "YES"} | thought,
    ]
