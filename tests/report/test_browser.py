"""The HTML report of a real campaign, ResNet-20 on CIFAR-10, as a browser shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser

from faultcli.cli import run

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WINDOWS = [(1280, False), (1280, True), (390, False), (390, True)]

# Where a figure lies and how large its smallest text is, in pixels.
FIGURES = """[...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect());
  return {name: svg.getAttribute("aria-label"), left: box.left, right: box.right, height: box.height,
          text: Math.min(...texts.map(text => text.height)),
          out: texts.filter(text => text.left < -1 || text.right > innerWidth + 1).length};
})"""
# Contrast of the page's ink and of every series with the cards, as WCAG 2 defines it.
CONTRASTS = """(() => {
  const style = getComputedStyle(document.documentElement);
  const light = name => {
    const hex = style.getPropertyValue(name).trim().slice(1);
    const [r, g, b] = [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
      .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const names = ["--ink", "--faint", ...Array.from({length: 8}, (_, i) => `--series-${i}`), "--sdc", "--due"];
  return Object.fromEntries(names.map(name => [name, contrast(light(name), light("--card"))]));
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("needs Chromium: none of chromium, chromium-browser, google-chrome is on the path")
    with Browser(PROGRAM) as started:
        yield started


@pytest.fixture(scope="module")
def page(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, cifar10 = tmp_path_factory.mktemp("report"), data_dir / "cifar10"
    command = ["campaign", cifar10 / "resnet20.safetensors", "--data", cifar10 / "cifar10_test1000.npz", "--quiet"]
    command += ["--limit", 40, "--trials", 3, "--format", "q2.5", "--ber", "1e-4,1e-3", "--max-drop", "0.1"]
    command += ["--protect", "none", "--protect", "scale=max", "--store", place / "campaign.sqlite"]
    assert run([str(part) for part in command]) in (1, 4)
    assert run(["report", str(place / "campaign.sqlite"), "-o", str(place / "report.html"), "--quiet"]) == 0
    return place / "report.html"


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
def test_opens_offline_without_a_complaint(width: int, dark: bool, browser: Browser, page: Path) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.requests == []
    assert browser.complaints == []
    assert browser.value("document.documentElement.scrollWidth") <= width  # nothing sticks out sideways
    figures = browser.value(FIGURES)
    kinds = ("Accuracy against fault level", "Paired gains", "Accuracy against overhead", "What became", "Every trial")
    for kind in kinds:
        assert any(figure["name"].startswith(kind) for figure in figures), kind
    for figure in figures:
        assert figure["height"] > 50, figure
        assert 0 <= figure["left"] < figure["right"] <= width, figure
        assert figure["text"] >= 8, figure
        assert figure["out"] == 0, figure
    assert browser.value("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    for name, contrast in browser.value(CONTRASTS).items():
        assert contrast >= (4.5 if name in ("--ink", "--faint") else 3), (name, contrast)


def test_prints(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") == "#1b2430"
    assert browser.call("Page.printToPDF", printBackground=True)["data"]
    browser.call("Emulation.setEmulatedMedia", media="")


def test_a_request_or_a_complaint_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    """The tests above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text('<!DOCTYPE html><img src="http://example.invalid/x.png"><script>console.error("no")</script>')
    browser.open(bad, width=1280, dark=False)
    assert browser.requests == ["http://example.invalid/x.png"]
    assert any(re.search(r"\bno\b", str(complaint)) for complaint in browser.complaints)
