"""The page of the server's API in headless Chromium: every operation and record is there, and it is alone."""

import json

import pytest
from browser import Opened, chromium

from ellm.pages.api import api_page
from ellm.server.openapi import document
from ellm.server.operations import OPERATIONS

API = json.loads(document(OPERATIONS))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "page.html"
    path.write_text(api_page(API))
    with chromium() as browser:
        opened = Opened(browser, path)
        yield opened
        assert opened.messages == []
        assert opened.requests == [opened.url]


def fields(page, record):
    """Name, type and default of each field of a record."""
    rows = page.tab.locator(f"#{record} tbody tr").all()
    return {cells[0]: cells[1:] for cells in (row.locator("td").all_inner_texts() for row in rows)}


def test_every_operation_is_there(page):
    shown = page.tab.locator(".operation summary").all_text_contents()
    wanted = [(method, path) for path, methods in API["paths"].items() for method in methods]
    assert len(shown) == len(wanted) == len(OPERATIONS)
    for text, (method, path) in zip(shown, wanted, strict=True):
        assert text == method.upper() + path + API["paths"][path][method]["summary"]


def test_an_operation_leads_to_what_it_takes(page):
    page.tab.locator(".operation summary", has_text="/v1/chat/completions").first.click()
    page.tab.locator(".operation[open] a", has_text="ChatRequest").click()
    assert page.tab.locator("#ChatRequest").get_attribute("open") is not None
    shown = fields(page, "ChatRequest")
    assert {name.removesuffix(" (required)") for name in shown} == set(
        API["components"]["schemas"]["ChatRequest"]["properties"]
    )
    assert shown["temperature"] == ["number (≥ 0, ≤ 100) or null", "null"]
    assert shown["n"] == ["integer (≥ 1, ≤ 16) or null", "null"]
    assert shown["stop"][0].endswith("list of string (characters ≥ 1, characters ≤ 256) (items ≤ 16) or null")
    assert shown["stream_options"] == ["StreamOptions or null", "null"]
    assert "model (required)" in shown


def test_every_record_and_every_link_is_there(page):
    records = API["components"]["schemas"]
    assert page.run("[...document.querySelectorAll('.record')].map(one => one.id)") == sorted(records)
    links = set(page.run("[...document.querySelectorAll('a')].map(one => one.getAttribute('href').slice(1))"))
    assert links <= set(records)


def test_it_fits_a_telephone(page):
    page.tab.set_viewport_size({"width": 380, "height": 700})
    assert page.run("document.documentElement.scrollWidth") <= 380
