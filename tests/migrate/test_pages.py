"""The pages that joey writes, in a real browser: filtered, on a phone, printed, and with hosts that say what they like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..browser import PROGRAM, Browser
from ..conftest import Joey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="needs Chromium (tools/test installs it where it is to be had)"),
]
REPORTS = Path(__file__).parent.parent / "data/reports"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture
def fleet(joey: Joey, tmp_path: Path) -> Path:
    """The page of four hosts, two with one kernel, one of which says things that are markup."""
    reports = tmp_path / "store/reports"
    reports.mkdir(parents=True)
    for name in ("centos6-2.6.32", "vanilla-2.6.32", "linux-6.18"):
        value = json.loads((REPORTS / f"{name}.json").read_text())
        if name == "linux-6.18":
            value.setdefault("machine", {})["distribution"] = (
                "</td><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">'\""
            )
        (reports / f"{name}.json").write_text(json.dumps(value))
    (reports / "twin.json").write_text((reports / "vanilla-2.6.32.json").read_text())
    joey("fleet", "show", "--store", str(tmp_path / "store"), "--html", str(tmp_path / "fleet.html"))
    return tmp_path / "fleet.html"


def shown(browser: Browser) -> list[str]:
    """The hosts that are to be seen."""
    rows = "[...document.querySelectorAll('tbody tr')].filter(row => row.getClientRects().length)"
    found: list[str] = browser.value(f"{rows}.map(row => row.querySelector('b').textContent)")
    return sorted(found)


def test_hosts_are_filtered(browser: Browser, fleet: Path) -> None:
    browser.open(fleet)
    everybody = ["centos6-2.6.32", "linux-6.18", "twin", "vanilla-2.6.32"]
    assert shown(browser) == everybody
    assert browser.value("document.querySelectorAll('section').length") == 3, "by kernel"
    browser.type("#words", "CENTOS")
    assert shown(browser) == ["centos6-2.6.32"]
    assert browser.value("document.getElementById('count').textContent") == "1"
    assert browser.value("[...document.querySelectorAll('h2')].filter(h => h.getClientRects().length).length") == 1
    browser.type("#words", "2.6.32 twin")
    assert shown(browser) == ["twin"], "and not who has the same kernel"
    browser.type("#words", "no such host")
    assert shown(browser) == []
    browser.type("#words", " ")
    assert shown(browser) == everybody
    good = "const s = document.getElementById('state'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
    found = {}
    for state in ("good", "fair", "bad", ""):
        browser.value(f"(() => {{ {good.format(state)} }})()")
        found[state] = shown(browser)
    assert found[""] == everybody
    assert sorted(found["good"] + found["fair"] + found["bad"]) == everybody, "each has one state"
    assert "linux-6.18" not in found["bad"]
    assert browser.complaints == []


def test_it_needs_no_network_and_runs_no_word_of_a_host(browser: Browser, fleet: Path) -> None:
    browser.open(fleet)
    assert browser.fetched == [fleet.resolve().as_uri()]
    assert browser.value("document.title") == "4 hosts, 3 kernels"
    assert "document.title='broken'" in browser.value("document.body.innerText"), "it is text"
    assert browser.complaints == []


def test_on_a_phone_and_on_paper(browser: Browser, fleet: Path) -> None:
    browser.open(fleet, width=360, height=740)
    assert browser.value("document.documentElement.scrollWidth") <= 360, "tables scroll, the page does not"
    size = browser.value("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)")
    assert size >= 12
    browser.value("document.querySelector('details summary').click()")
    assert browser.value("document.querySelector('details[open] li').getClientRects().length") > 0
    assert browser.value("document.documentElement.scrollWidth") <= 360
    browser.open(fleet)
    browser.media("print")
    assert browser.value("document.querySelector('form').getClientRects().length") == 0
    assert shown(browser) == ["centos6-2.6.32", "linux-6.18", "twin", "vanilla-2.6.32"]
    assert browser.pdf().startswith(b"%PDF-")
    browser.media("screen")


def test_the_page_of_a_machine(browser: Browser, joey: Joey, machine: Callable[..., Path], tmp_path: Path) -> None:
    root = machine()
    (root / "etc/os-release").write_text("PRETTY_NAME=\"<script>document.title='broken'</script>\"\nID=test\n")
    page = tmp_path / "machine.html"
    joey("migrate", "inspect", str(root), "--html", str(page))
    for width in (1200, 360):
        browser.open(page, width=width)
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("document.title") != "broken"
        assert "<script>document.title" in browser.value("document.body.innerText")
        assert browser.fetched == [page.resolve().as_uri()]
        assert browser.complaints == []
    browser.media("print")
    assert browser.pdf().startswith(b"%PDF-")
    browser.media("screen")
