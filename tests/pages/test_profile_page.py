"""The page of `ellm profile --html` in headless Chromium: what it draws, how it is used, and that it is alone."""

from itertools import pairwise

import numpy as np
import pytest
from browser import Opened, chromium
from tiny import write_checkpoint

from ellm import pages
from ellm.cli.profile import SCRIPTS, record
from ellm.llm import LLM
from ellm.profiling import page


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "moe", "Qwen3MoeForCausalLM")
    with LLM(folder) as llm:
        runtime = llm.runtime
        found = record(runtime, np.arange(20, 60, dtype=np.int32), 5)
        name, limits = "</script>&tiny", (1e9, 1e12)
        return page.data(found.accountant, found.accounts(), found.steps, runtime.pool.placement.names, name, limits)


@pytest.fixture
def tab(browser, tmp_path, data):
    """The open page; afterwards it must have been quiet and alone."""
    (tmp_path / "page.html").write_text(pages.page("profile", "profile.html", data, SCRIPTS))
    one = Opened(browser, tmp_path / "page.html")
    yield one
    assert one.messages == [] and one.requests == [one.url]
    one.tab.close()


def details(one):
    """What the panel on the right says: its heading, and its figures."""
    names = one.run("[...document.querySelectorAll('#details dt')].map(node => node.textContent)")
    values = one.run("[...document.querySelectorAll('#details dd')].map(node => node.textContent)")
    return one.run("document.querySelector('#details h2').textContent"), dict(zip(names, values, strict=True))


def test_the_timeline_zooms_to_a_step_and_tells_of_a_task(tab, data):
    assert tab.run("document.getElementById('name').textContent") == "</script>&tiny"
    whole = tab.run("ellm.timeline.domain()")
    assert whole == pytest.approx([0, data["steps"][-1]["end"]], abs=1)
    tab.tab.select_option("#step", "2")
    step = data["steps"][2]
    begin, end = tab.run("ellm.timeline.domain()")
    assert (begin, end) == pytest.approx((step["begin"], step["end"]), rel=1e-3)
    workers, whats, ops, blocks, indices, begins, lengths, _ = data["spans"]
    tasks = [i for i, what in enumerate(whats) if what <= 1 and step["begin"] <= begins[i] < step["end"]]
    longest = max(tasks, key=lambda i: lengths[i])
    left, right = tab.run("[64, document.getElementById('drawing').clientWidth - 12]")
    x = left + (right - left) * (begins[longest] + lengths[longest] / 2 - begin) / (end - begin)
    row = tab.run(
        f"Math.max(16, Math.min(64, (document.getElementById('drawing').clientHeight - 54) / {len(data['cores'])}))"
    )
    tab.tab.click("#tracks", position={"x": x, "y": 46 + row * (workers[longest] + 0.5)})
    name, facts = details(tab)
    assert name == data["operators"][ops[longest]]["name"]
    assert facts["runs on"] == data["cores"][workers[longest]]
    assert (facts["block"], facts["task"]) == (str(blocks[longest]), str(indices[longest]))
    tab.tab.click("#whole")
    assert tab.run("ellm.timeline.domain()") == pytest.approx(whole, abs=1)


def test_something_is_drawn(tab):
    colours = tab.run(
        "(() => { const c = document.getElementById('tracks'); "
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const s = new Set(); "
        "for (let i = 0; i < d.length; i += 4) s.add((d[i] << 16) | (d[i + 1] << 8) | d[i + 2]); return s.size; })()"
    )
    assert colours > 5


def test_totals_of_both_phases(tab, data):
    tab.tab.click("[aria-controls=totals]")
    for number, total in enumerate(data["totals"]):
        tab.tab.select_option("#phase", str(number))
        names = tab.run("[...document.querySelectorAll('#rows tbody tr td:first-child')].map(node => node.textContent)")
        assert names == [kind["name"] for kind in total["kinds"]]
        widths = tab.run("[...document.querySelectorAll('#shares rect.part')].map(node => +node.getAttribute('width'))")
        assert len(widths) == 8 * len(data["cores"])
        assert sum(widths) == pytest.approx(720 * len(data["cores"]), rel=0.02)


def test_the_heat_map_has_a_cell_for_each_expert(tab, data):
    tab.tab.click("[aria-controls=experts]")
    assert tab.run("document.querySelectorAll('#heat rect.expert').length") == 2 * 7
    tab.tab.locator("#heat rect.expert").nth(9).click()
    name, facts = details(tab)
    assert name == "layers.1"
    assert (facts["expert"], facts["rows"]) == ("2", str(data["experts"]["rows"][1][2]))


def test_a_dense_model_has_no_heat_map(browser, tmp_path, data):
    (tmp_path / "page.html").write_text(pages.page("profile", "profile.html", data | {"experts": None}, SCRIPTS))
    one = Opened(browser, tmp_path / "page.html")
    assert one.run("document.getElementById('experts-tab')") is None
    assert one.messages == []
    one.tab.close()


def test_a_click_on_a_core_tells_what_it_waited_for(tab, data):
    tab.tab.click("[aria-controls=totals]")
    core = data["totals"][-1]["cores"][0]
    tab.tab.locator("#shares rect.part").first.dispatch_event("click")  # it may be too short to hit
    name, facts = details(tab)
    assert name == core["name"]
    assert {name for name, ns in core["waits"] if ns >= 1} <= facts.keys()


def test_names_of_many_layers_do_not_overlap(browser, tmp_path, data):
    layers = 60
    experts = {name: values * (layers // 2) for name, values in data["experts"].items()}
    experts["rows"] = [row * 30 for row in experts["rows"]]
    (tmp_path / "page.html").write_text(pages.page("profile", "profile.html", data | {"experts": experts}, SCRIPTS))
    one = Opened(browser, tmp_path / "page.html")
    one.tab.click("[aria-controls=experts]")
    tops = one.run("[...document.querySelectorAll('#heat > text')].map(node => +node.getAttribute('y'))")
    assert 1 < len(tops) < layers and all(below - above >= 11 for above, below in pairwise(tops))
    assert one.run("document.querySelectorAll('#heat rect.expert').length") == layers * 7 * 30
    one.tab.close()
