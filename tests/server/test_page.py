"""The page at `/` of a real server, in headless Chromium."""

import json
import re
import time

import pytest
from browser import Opened, chromium
from served import NAME, serving
from tiny import write_checkpoint

from ellm import LLM


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("page") / "moe", "Qwen3MoeForCausalLM", layers=3)
    with LLM(folder, threads=1, pin="none") as opened:
        yield opened


def ask(page, text):
    page.tab.fill("#question", text)
    page.tab.keyboard.press("Enter")


def wait_for(page, script):
    deadline = time.monotonic() + 20
    while not page.run(script):
        assert time.monotonic() < deadline, script
        page.tab.wait_for_timeout(20)  # ms


def test_a_conversation_with_a_real_model_and_what_it_is_doing(browser, llm):
    with serving(llm) as server:
        page = Opened(browser, server.url)
        page.tab.wait_for_selector(f"#name:has-text('{NAME}')")
        for name, value in (("temperature", "0"), ("max_tokens", "12"), ("system", "Be brief.")):
            page.tab.fill(f"[name={name}]", value)
        page.tab.keyboard.press("Tab")
        messages = [{"role": "system", "content": "Be brief."}]
        for number, question in enumerate(("Hi", "And then?")):
            ask(page, question)
            wait_for(page, f"document.querySelectorAll('.assistant .spent:not(:empty)').length === {number + 1}")
            messages.append({"role": "user", "content": question})
            request = {"model": NAME, "messages": messages, "temperature": 0, "max_tokens": 12}
            status, _, reply = server.ask("POST", "/v1/chat/completions", request, ["Content-Type: application/json"])
            said = page.tab.locator(".assistant .text").last.text_content()
            assert (status, json.loads(reply)["choices"][0]["message"]["content"]) == (200, said)
            messages.append({"role": "assistant", "content": said})
        told = page.tab.locator(".assistant .spent").last.inner_text()
        assert re.match(r"\d+ tokens? · .*\d+ tokens of prompt", told), told
        wait_for(
            page, "/^[1-9]\\d* of \\d+: a row is a layer/.test(document.getElementById('experts-hint').textContent)"
        )
        assert page.tab.locator(".core").count() == 1
        assert page.messages == [] and page.tab.locator("[role=alert]:visible").count() == 0
        page.tab.close()


def test_stop_ends_the_request_in_the_server(browser, llm, monkeypatch):
    step = llm.engine.step
    monkeypatch.setattr(llm.engine, "step", lambda undisturbed: (time.sleep(0.05), step()))
    with serving(llm) as server:
        page = Opened(browser, server.url)
        page.tab.wait_for_selector(f"#name:has-text('{NAME}')")
        page.tab.fill("[name=system]", "")
        page.tab.fill("[name=temperature]", "0")
        ask(page, "Hi")
        wait_for(page, "document.querySelector('.assistant .text').textContent")
        page.tab.click("#stop")
        deadline = time.monotonic() + 10
        while llm.statistics().running:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        page.tab.close()


def test_the_page_is_open_and_what_it_asks_for_needs_the_key(browser, llm):
    with serving(llm, keys=["secret"]) as server:
        assert server.ask("GET", "/status")[0] == 401
        assert server.ask("GET", "/")[1]["x-frame-options"] == "deny"
        page = Opened(browser, server.url)
        page.tab.wait_for_selector("#trouble:has-text('API key')")
        page.tab.fill("[name=key]", "wrong")
        page.tab.keyboard.press("Tab")
        page.tab.wait_for_selector("#trouble:has-text('wrong')")
        page.tab.fill("[name=key]", "secret")
        page.tab.keyboard.press("Tab")
        page.tab.wait_for_selector(f"#name:has-text('{NAME}')")
        page.tab.wait_for_selector("#trouble", state="hidden")
        page.tab.close()
