"""The page of a server in headless Chromium, before a stand-in: what it shows, what it asks, and nobody else."""

import re
import time

import pytest
from browser import Opened, chromium
from chat_stand_in import standing_in

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def server():
    with standing_in() as running:
        running.script = [{"content": "Hel"}, {"content": "lo."}]
        yield running


@pytest.fixture
def one(browser, server):
    """The open page, which must have been quiet and have asked nobody but its server."""
    page = Opened(browser, server.url)
    yield page
    assert page.messages == []
    assert all(request.startswith(server.url) for request in page.requests)
    page.tab.close()


def say(one, text, wait=True):
    one.tab.fill("#question", text)
    one.tab.keyboard.press("Enter")
    if wait:
        one.tab.wait_for_selector("#send:visible")


def until(one, script):
    """Wait for a JavaScript expression to be true; Playwright's own way is forbidden by the page's policy."""
    deadline = time.monotonic() + 10
    while not one.run(script):
        assert time.monotonic() < deadline, script
        one.tab.wait_for_timeout(20)


def turns(one):
    return one.tab.locator(".turn .text").all_inner_texts()


def set_to(one, name, value):
    one.tab.fill(f"[name={name}]", value)
    one.tab.keyboard.press("Tab")


def test_a_question_is_asked_and_answered_as_it_comes(one, server):
    server.script = [{"content": "Hel"}, "wait", {"content": "lo."}]
    say(one, "Hi\tthere", wait=False)
    until(one, "document.querySelector('.assistant .text').textContent === 'Hel'")
    assert one.tab.get_attribute(".assistant", "aria-busy") == "true"
    server.go.set()
    one.tab.wait_for_selector("#send:visible")
    assert turns(one) == ["Hi\tthere", "Hello."]
    told = one.tab.inner_text(".assistant .spent")
    assert re.fullmatch(
        r"7 tokens · [\d.]+ tokens/s · first after [\d.]+ s · 40 tokens of prompt, 30 of them cached", told
    )
    say(one, "More")
    assert server.asked[1]["messages"] == [
        {"role": "user", "content": "Hi\tthere"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "More"},
    ]
    assert server.asked[0] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hi\tthere"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_settings_and_the_system_prompt_go_with_a_question(one, server):
    set_to(one, "system", "Be brief.")
    for name, value in (("temperature", "0.7"), ("top_k", "40"), ("max_tokens", "9"), ("seed", "3")):
        set_to(one, name, value)
    one.tab.select_option("[name=reasoning_effort]", "low")
    one.tab.select_option("[name=model]", "other")
    say(one, "Hi")
    asked = server.asked[0]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    given = {
        name: asked.get(name) for name in ("temperature", "top_k", "max_tokens", "seed", "reasoning_effort", "model")
    }
    assert given == {
        "temperature": 0.7,
        "top_k": 40,
        "max_tokens": 9,
        "seed": 3,
        "reasoning_effort": "low",
        "model": "other",
    }
    assert one.tab.inner_text("#name") == "other"
    one.tab.reload()
    assert one.tab.input_value("[name=temperature]") == "0.7" and one.tab.input_value("[name=system]") == "Be brief."
    assert turns(one) == ["Hi", "Hello."]


def test_stop_ends_the_request_and_keeps_what_came(one, server):
    server.script = [{"content": "So far"}, "wait"]
    say(one, "Hi", wait=False)
    until(one, "document.querySelector('.assistant .text').textContent === 'So far'")
    one.tab.click("#stop")
    one.tab.wait_for_selector("#send:visible")
    assert server.left.wait(10)
    assert turns(one) == ["Hi", "So far"] and one.tab.inner_text(".assistant .spent").startswith("stopped · 1 token")
    assert one.run("document.activeElement.id") == "question"


def test_reasoning_is_folded_and_goes_back_with_its_answer(one, server):
    server.script = [{"reasoning_content": "Hm, "}, {"reasoning_content": "rivers"}, "wait", {"content": "Elbe"}]
    say(one, "A river?", wait=False)
    one.tab.wait_for_selector(".assistant .thought summary:has-text('Thinking')")
    assert not one.tab.is_visible(".assistant .thought div")
    server.go.set()
    one.tab.wait_for_selector(".assistant .thought summary:has-text('Thought before it answered')")
    one.tab.click(".assistant .thought summary")
    assert one.tab.inner_text(".assistant .thought div") == "Hm, rivers" and turns(one)[-1] == "Elbe"
    one.tab.wait_for_selector("#send:visible")
    say(one, "Another?")
    back = {"role": "assistant", "content": "Elbe", "reasoning_content": "Hm, rivers"}
    assert server.asked[1]["messages"][1] == back


def test_an_open_thought_stays_open_while_the_answer_comes(one, server):
    server.script = [{"reasoning_content": "Hm"}, "wait", {"content": "Elbe"}]
    say(one, "A river?", wait=False)
    one.tab.click(".assistant .thought summary")
    server.go.set()
    until(one, "document.querySelector('.assistant .text').textContent === 'Elbe'")
    assert one.tab.is_visible(".assistant .thought div")


def test_a_question_is_changed_and_asked_again(one, server):
    say(one, "First")
    say(one, "Second")
    one.tab.locator(".user button:has-text('Edit')").first.click()
    assert one.run("document.activeElement.value") == "First"
    one.tab.keyboard.type(" of all")
    one.tab.keyboard.press("Control+Enter")
    until(one, "document.querySelectorAll('.turn').length === 2")
    one.tab.wait_for_selector("#send:visible")
    assert turns(one) == ["First of all", "Hello."]
    assert server.asked[2]["messages"] == [{"role": "user", "content": "First of all"}]


def test_an_answer_is_changed_or_asked_for_again(one, server):
    say(one, "First")
    one.tab.click(".assistant button:has-text('Edit')")
    one.tab.locator(".assistant textarea").fill("Bye.")
    one.tab.click("button:has-text('Cancel')")
    assert turns(one) == ["First", "Hello."]
    one.tab.click(".assistant button:has-text('Edit')")
    one.tab.locator(".assistant textarea").fill("Bye.")
    one.tab.click("button:has-text('Keep')")
    assert turns(one) == ["First", "Bye."]
    say(one, "Second")
    assert server.asked[1]["messages"][1] == {"role": "assistant", "content": "Bye."}
    server.script = [{"content": "Other"}]
    one.tab.locator(".assistant button:has-text('Again')").first.click()
    until(one, "document.querySelectorAll('.turn').length === 2")
    one.tab.wait_for_selector("#send:visible")
    assert turns(one) == ["First", "Other"]


def test_new_chat_forgets_even_what_is_coming(one, server):
    server.script = [{"content": "So far"}, "wait"]
    say(one, "Hi", wait=False)
    one.tab.wait_for_selector(".assistant .text:has-text('So far')")
    one.tab.click("#fresh")
    one.tab.wait_for_selector("#send:visible")
    assert turns(one) == []
    server.go.set()
    server.script = [{"content": "Hello."}]
    say(one, "Hi")
    assert turns(one) == ["Hi", "Hello."] and len(server.asked[-1]["messages"]) == 1


def test_what_the_model_says_is_text(one, server):
    server.script = [{"reasoning_content": EVIL}, {"content": f"{EVIL}\n```html\n{EVIL}\n```\nend"}]
    say(one, EVIL)
    assert turns(one)[0] == EVIL
    assert one.tab.locator(".assistant .text pre").inner_text().strip() == EVIL
    assert one.tab.locator(".turn img, .turn script").count() == 0
    assert "owned" not in one.tab.title()


def test_no_names_from_the_server_are_markup(one, server):
    server.experts = [{"name": EVIL, "experts": 2, "woken": [0]}]
    until(one, "document.getElementById('experts-hint').textContent.startsWith('1 of 2')")
    assert one.tab.locator("aside img, aside script").count() == 0


def test_errors_are_said_where_they_happened(browser, server):
    page = Opened(browser, server.url)
    say(page, "refuse")
    assert page.tab.inner_text(".assistant .error") == "temperature must be at least 0, not -1"
    server.script = [{"content": "So far"}, ("error", "no memory")]
    say(page, "Hi")
    assert page.tab.locator(".assistant .error").all_inner_texts()[-1] == "no memory"
    assert turns(page)[-1] == "So far"
    assert page.tab.locator("[role=alert]:visible").count() == 2
    page.tab.close()


def test_a_key_is_asked_for_kept_in_the_tab_and_sent(browser, server):
    server.key = "secret"
    page = Opened(browser, server.url)
    page.tab.wait_for_selector("#trouble:has-text('there is no API key')")
    assert page.run("document.activeElement.name") == "key"
    set_to(page, "key", "secret")
    until(page, "document.getElementById('name').textContent === 'tiny'")
    page.tab.wait_for_selector("#trouble", state="hidden")
    say(page, "Hi")
    assert turns(page) == ["Hi", "Hello."]
    assert page.run("Object.keys(localStorage).length") == 0 and "secret" in page.run("sessionStorage['ellm-settings']")
    assert not any("secret" in request for request in page.requests)
    page.tab.reload()
    until(page, "document.getElementById('name').textContent === 'tiny'")
    page.tab.close()


def test_the_server_is_watched(one, server):
    one.tab.wait_for_selector(".figure:has-text('20.0'):has-text('tokens/s')")
    figures = dict(reversed(text.split("\n")) for text in one.tab.locator(".figure").all_inner_texts())
    assert figures == {
        "running": "2",
        "waiting": "3",
        "tokens/s": "20.0",
        "prompt tokens/s": "100",
        "keys and values": "50.0 MB",
    }
    facts = one.tab.inner_text("#facts")
    assert "100 of 400 prompt tokens (25 %)" in facts and "100.0 ms, 5.0 a second" in facts and "4,096 tokens" in facts
    cores = one.tab.locator(".core").evaluate_all("all => all.map(one => one.title)")
    assert cores == ["core 0: 100 % busy", "core 1: 50 % busy"]
    assert one.tab.inner_text("#experts-hint") == "6 of 24: a row is a layer, a column an expert"
    painted = """(() => { const canvas = document.getElementById('experts'), { width, height } = canvas;
        const size = width / 8, points = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        const at = (layer, i) => points[4 * (width * (size * layer + 1) + size * i + 1) + 3];
        return [0, 1, 2].map(layer => [...Array(8).keys()].filter(i => at(layer, i))) })()"""
    assert one.run(painted) == [[0, 7], [1, 7], [2, 7]]
    widths = one.tab.locator(".core i").evaluate_all("all => all.map(one => one.style.width)")
    assert widths == ["100%", "50%"]


def test_a_dense_model_shows_no_experts(one, server):
    server.experts = None
    one.tab.wait_for_selector("#experts-part", state="hidden")


def test_everything_is_reached_by_keys(one, server):
    assert one.run("document.activeElement.id") == "question"
    say(one, "Hi")
    names = set()
    for _ in range(40):
        one.tab.keyboard.press("Tab")
        names.add(
            one.run(
                "(e => e.name || e.id || e.textContent)(document.activeElement)",
            )
        )
    assert {"Edit", "Again", "side-switch", "turns", "fresh", "temperature", "key", "model", "system"} <= names
    unnamed = """[...document.querySelectorAll('button, input, select, textarea')].filter(one =>
        !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length)).map(one => one.outerHTML)"""
    assert one.run(unnamed) == []


def test_on_a_telephone_chat_and_panel_take_turns(browser, server):
    page = Opened(browser, server.url, (360, 640))
    assert not page.tab.is_visible("#side")
    say(page, "A long question " * 20)
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.tab.click("#side-switch")
    assert page.tab.is_visible("#side") and page.tab.get_attribute("#side-switch", "aria-expanded") == "true"
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.tab.click("#side-switch")
    assert page.tab.is_visible("#question") and not page.tab.is_visible("#side")
    page.tab.close()
