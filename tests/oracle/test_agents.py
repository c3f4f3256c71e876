"""Agents from npm, unchanged, against `ellm serve`: they call a tool, read what came of it, and go on for three turns.

They are installed, about 1 GB, in the folder that ELLM_AGENTS names, which keeps them, or else in a temporary one.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from agent_model import ANSWER, write_agent_model
from served import NAME, serving

from ellm import LLM
from ellm.serving.prefix_cache import LEAST

pytestmark = pytest.mark.oracle

PACKAGES = ["opencode-ai@1.18.33", "@openai/codex@0.171.0", "@anthropic-ai/claude-code@2.1.197"]
CONTEXT = 1 << 17  # the model's tokens are letters: a prompt of an agent has 30 to 80 thousand


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    """The folder of their commands."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not on PATH")
    folder = Path(os.environ.get("ELLM_AGENTS") or tmp_path_factory.mktemp("agents"))
    options = ["--prefix", str(folder), "--no-audit", "--no-fund", "--no-save", "--prefer-offline"]
    install = subprocess.run([npm, "install", *options, *PACKAGES], capture_output=True, text=True, timeout=600)
    if install.returncode:
        pytest.skip(f"npm cannot install them: {install.stderr.strip().splitlines()[-1]}")
    modules = folder / "node_modules"  # of whose scripts newer npm runs none
    for package, script in (("opencode-ai", "postinstall.mjs"), ("@anthropic-ai/claude-code", "install.cjs")):
        subprocess.run(["node", script], cwd=modules / package, check=True, timeout=60)
    return modules / ".bin"


@pytest.fixture
def workspace(tmp_path):
    """A folder with a file to read."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello\n")
    return folder


class Requests:
    """A server of a model that calls a tool, and says ANSWER when it is told what came of it; `outputs` are all that
    it made."""

    def __init__(self, folder, tool, arguments):
        self.model = write_agent_model(folder, tool, arguments, CONTEXT)
        self.outputs = []

    def listen(self, served, monkeypatch):
        """Note what it makes from now on."""
        ended = served.service.metrics.ended
        monkeypatch.setattr(
            served.service.metrics,
            "ended",
            lambda output, seconds: (self.outputs.append(output), ended(output, seconds)),
        )

    def check(self):
        """Each computed its new tokens, and fewer than LEAST more, which are not kept; the one before had the rest."""
        assert len(self.outputs) == 6
        for before, one in zip(self.outputs, self.outputs[1:], strict=False):
            known = len(before.prompt_token_ids) + len(before.token_ids) - 1
            assert one.metrics.cached_tokens > known - LEAST, [output.metrics for output in self.outputs]
            assert 0 < len(one.prompt_token_ids) - one.metrics.cached_tokens < 2000
        assert len(self.outputs[0].prompt_token_ids) > 10_000


def run(command, workspace, **environment):
    """The events that a command prints, one of JSON a line."""
    home = {name: str(workspace.parent / "home") for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    found = {**os.environ, **home, "NO_PROXY": "127.0.0.1", **environment}
    done = subprocess.run(
        command, cwd=workspace, env=found, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_opencode(agents, workspace, tmp_path, monkeypatch):
    requests = Requests(tmp_path / "model", "read", {"filePath": str(workspace / "notes.txt")})
    with LLM(requests.model) as llm, serving(llm) as served:
        requests.listen(served, monkeypatch)
        model = {"name": NAME, "tool_call": True, "limit": {"context": CONTEXT, "output": 64}}
        options = {"baseURL": f"{served.url}/v1", "apiKey": "none"}
        provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {NAME: model}}
        config = {"provider": {"ellm": provider}, "model": f"ellm/{NAME}", "autoupdate": False, "share": "disabled"}
        config["permission"] = {"external_directory": "allow"}  # as everything is where there is no repository
        settings = {"OPENCODE_CONFIG_CONTENT": json.dumps(config), "OPENCODE_DISABLE_MODELS_FETCH": "1"}
        command = [agents / "opencode", "run", "--format", "json"]
        session: list[str] = ["--title", "notes"]  # else it asks the model for one
        for _ in range(3):
            events = run([*command, *session, "What does notes.txt say?"], workspace, **settings)
            kinds = [event["type"] for event in events]
            assert "error" not in kinds and "tool_use" in kinds
            (used,) = [event["part"]["state"] for event in events if event["type"] == "tool_use"]
            assert used["status"] == "completed" and "hello" in used["output"]
            assert [event["part"]["text"] for event in events if event["type"] == "text"] == [ANSWER]
            last = [event["part"]["tokens"] for event in events if event["type"] == "step_finish"][-1]
            assert last["cache"]["read"] > 10_000 > last["input"]
            session = ["--session", events[0]["sessionID"]]
        requests.check()


def test_codex(agents, workspace, tmp_path, monkeypatch):
    requests = Requests(tmp_path / "model", "exec_command", {"cmd": "cat notes.txt"})
    with LLM(requests.model) as llm, serving(llm) as served:
        requests.listen(served, monkeypatch)
        fields = {"name": "ellm", "base_url": f"{served.url}/v1", "wire_api": "responses"}
        settings = [f"model_providers.ellm.{name}={json.dumps(value)}" for name, value in fields.items()]
        settings += [f'model="{NAME}"', 'model_provider="ellm"', f"model_context_window={CONTEXT}"]
        options = ["--json", "--skip-git-repo-check", *(part for one in settings for part in ("-c", one))]
        (tmp_path / "codex").mkdir()
        session: list[str] = []
        for _ in range(3):
            command = [agents / "codex", "exec", *session, *options, "What does notes.txt say?"]
            events = run(command, workspace, CODEX_HOME=str(tmp_path / "codex"))
            items = [event["item"] for event in events if event["type"] == "item.completed"]
            assert "command_execution" in [item["type"] for item in items]
            assert [item["text"] for item in items if item["type"] == "agent_message"] == [ANSWER]
            assert events[-1]["type"] == "turn.completed" and events[-1]["usage"]["cached_input_tokens"] > 10_000
            session = ["resume", events[0]["thread_id"]]
        requests.check()


def test_claude_code(agents, workspace, tmp_path, monkeypatch):
    requests = Requests(tmp_path / "model", "Read", {"file_path": str(workspace / "notes.txt")})
    with LLM(requests.model) as llm, serving(llm) as served:
        requests.listen(served, monkeypatch)
        settings = {"ANTHROPIC_BASE_URL": served.url, "ANTHROPIC_API_KEY": "none"}
        settings |= {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        command = [agents / "claude", "--print", "What does notes.txt say?", "--model", NAME, "--allowedTools", "Read"]
        session: list[str] = []
        for _ in range(3):
            (event,) = run([*command, "--output-format", "json", *session], workspace, **settings)
            assert (event["result"], event["is_error"], event["num_turns"]) == (ANSWER, False, 2)
            assert event["usage"]["cache_read_input_tokens"] > 10_000
            session = ["--resume", event["session_id"]]
        requests.check()
