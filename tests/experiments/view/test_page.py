"""The viewer in a real browser: text stays text, filters, keys, widths, a growing run."""

import threading

import numpy as np
import pytest

from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.experiments.view.server import ViewServer
from rsft_jax.experiments.view.viewed import Viewed
from rsft_jax.rollouts import RolloutStore, read_rollouts
from tests.experiments.browser import CHROMIUM, browser_tab
from tests.experiments.stored_run import write_stored_run
from tests.experiments.view.test_viewed import NASTY, RSO, write_answers

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

WIDE, PHONE = 1280, 375
CANDIDATES = "document.querySelectorAll('.candidate').length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_stored_run(tmp_path_factory.mktemp("view") / "run", *RSO, prompts=12, rounds=2)
    write_answers(folder, 0, ["a red cat", "one", "two", "three"])
    write_answers(folder, 1, [" a blue cat", NASTY, "two", "four"])
    return folder


@pytest.fixture(scope="module")
def url(folder):
    with ViewServer(Viewed(folder, read_config(folder / "config.yaml"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browser_tab(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture
def tab(browser):
    browser.tell("Page.navigate", url="about:blank")
    browser.errors.clear()
    yield browser
    assert browser.errors == []


def chosen(tab, name, value, event="input"):
    """Sets a control as a hand would; what follows is waited for by the test."""
    tab.see(
        f"{{const e = document.forms[0].elements['{name}']; e.value = '{value}';"
        f" e.dispatchEvent(new Event('{event}', {{bubbles: true}})); 0}}"
    )


@pytest.mark.parametrize("width", [PHONE, WIDE])
@pytest.mark.parametrize("address", ["", "#source=heldout&arm=policy&round=1"])
def test_the_page_fits_its_width(tab, url, width, address):
    tab.open(url + address, width)
    tab.wait(CANDIDATES)
    scroll, inner = tab.see(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert scroll <= inner <= width
    small = tab.see(
        "[...document.querySelectorAll('.candidate .text')].map(e => e.clientWidth)"
        ".filter(w => w < 120).length"
    )
    assert small == 0
    unnamed = tab.see(
        "[...document.forms[0].elements].filter(e => !['FIELDSET', 'OUTPUT'].includes(e.tagName)"
        " && !(e.labels?.length || e.textContent.trim())).length"
    )
    assert unnamed == 0


def test_candidates_show_verdict_rank_terms_and_draw(tab, url):
    tab.open(url, WIDE)
    tab.wait("document.querySelectorAll('.coin').length")
    assert tab.see(CANDIDATES) == 80  # ten prompts of twelve
    assert tab.see("document.querySelector('#matching').textContent") == (
        "96 candidates of 12 prompts; prompts 1 to 10"
    )
    assert tab.see("document.querySelector('#round-name').textContent") == "2 of 2"
    text = tab.see("document.querySelector('.candidate.accepted').textContent")
    for words in ("✓ accepted", "reward 1.000", "rank 1 of 7", "sentiment 1.000", "< 1.0000"):
        assert words in text
    assert "drawn again" in tab.see("document.querySelector('.rule').textContent")


def test_text_of_a_model_is_text(tab, url):
    tab.open(url + "#source=heldout&arm=policy&round=1", WIDE)
    tab.wait(CANDIDATES)
    assert NASTY in tab.see("document.querySelector('#prompts').textContent")
    assert tab.see("document.querySelectorAll('#prompts img, #prompts script').length") == 0
    assert tab.see("[...document.querySelectorAll('del')].map(e => e.textContent)")[0] == "red"
    assert tab.see("[...document.querySelectorAll('mark')].map(e => e.textContent)")[0] == "blue"
    tab.see("document.forms[0].elements.differences.click()")
    tab.wait("document.querySelectorAll('mark, del').length === 0")
    assert "a red cat" in tab.see("document.querySelector('.base').textContent")


def test_filters_and_pages_and_the_address_of_what_is_seen(tab, url):
    tab.open(url, WIDE)
    tab.wait(CANDIDATES)
    chosen(tab, "column", "group")
    chosen(tab, "value", "girls")
    tab.wait("document.querySelectorAll('.prompt').length === 6")
    chosen(tab, "verdict", "accepted")
    tab.wait("[...document.querySelectorAll('.candidate')].every(e => e.matches('.accepted'))")
    assert tab.see("document.querySelector('#active').textContent") == "(2 set)"
    tab.wait("location.hash.includes('verdict=accepted')")
    address = tab.see("location.href")
    tab.tell("Page.navigate", url="about:blank")
    tab.open(address, WIDE)
    tab.wait("document.querySelectorAll('.prompt').length === 6")
    assert tab.see("document.forms[0].elements.value.value") == "girls"
    chosen(tab, "low", "7")
    tab.wait("/No candidate is as the filters ask/.test(document.body.textContent)")
    tab.see("document.querySelector('[type=reset]').click()")
    tab.wait("document.querySelectorAll('.prompt').length === 10")
    tab.see("document.querySelector('#after').click()")
    tab.wait("document.querySelectorAll('.prompt').length === 2")
    assert tab.see("document.querySelector('#after').disabled")


def test_everything_can_be_reached_and_moved_by_keys(tab, url):
    tab.open(url, WIDE)
    tab.wait(CANDIDATES)
    names = set()
    for _ in range(14):
        tab.press("Tab")
        names.add(tab.see("document.activeElement.name || document.activeElement.tagName"))
    assert {"source", "arm", "round", "follow", "SUMMARY", "verdict", "search"} <= names
    tab.see("document.forms[0].elements.round.focus()")
    tab.press("ArrowLeft")
    tab.wait("document.querySelector('#round-name').textContent === '1 of 2'")
    assert not tab.see("document.forms[0].elements.follow.checked")
    tab.wait("location.hash.includes('round=1')")
    tab.see("document.forms[0].elements.search.focus()")
    tab.type("girls 11")
    tab.wait("document.querySelectorAll('.prompt').length === 1")
    assert tab.see("document.querySelector('.prompt h2').textContent").startswith("t11")


def test_new_rounds_appear_by_themselves(tab, url, folder):
    source = read_rollouts(folder / "rollouts" / "round-002-policy.parquet").columns
    tab.open(url, WIDE)
    tab.wait(CANDIDATES)
    tab.see("window.same = true")
    rows = {**source, "round": np.full(len(source["round"]), 3), "completion": ["new"] * 96}
    (folder / "rollouts" / "round-004-policy.parquet").write_bytes(b"PAR1 half of a file")
    path = RolloutStore(folder / "rollouts").append(rows, name="round-003-policy")
    try:
        tab.wait("document.querySelector('#round-name').textContent.startsWith('3')")
        tab.wait("document.querySelector('.candidate .text').textContent === 'new'")
        assert tab.see("window.same")  # the page was not loaded again
    finally:
        (folder / "rollouts" / "manifest" / f"{path.name}.json").unlink()
        path.unlink()
