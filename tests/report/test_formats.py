"""Every kind of report is a pure function of the records and says what they say."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest

from faultcli.campaign.gates import Verdict
from faultcli.campaign.records import CampaignResult, Failure
from faultcli.campaign.result import result_of
from faultcli.campaign.store import Store
from faultcli.errors import UsageError
from faultcli.report.formats import REPORTS, report_format
from faultcli.report.html import campaign_html
from faultcli.report.junit import campaign_junit
from faultcli.report.markdown import MOST_BYTES, campaign_markdown
from faultcli.report.numbers import percent
from faultcli.report.sections import SECTIONS

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("suffix", REPORTS)
def test_the_same_records_give_the_same_bytes(suffix: str, result: CampaignResult, store_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    once = REPORTS[suffix].render(result)
    assert once == REPORTS[suffix].render(result_of(Store.read(store_path)))
    assert once


def test_the_longest_ending_counts() -> None:
    assert report_format("a.arms.csv") is REPORTS[".arms.csv"]
    assert report_format("A.CSV") is REPORTS[".csv"]
    with pytest.raises(UsageError, match=r"a\.pdf: is no kind of report"):
        report_format("a.pdf")


def test_without_gates_provenance_or_trials(result: CampaignResult) -> None:
    """Whatever is missing is left out; nothing fails."""
    bare = replace(
        result, provenance=None, arms=tuple(replace(arm, gates=(), records=arm.records[:1]) for arm in result.arms)
    )
    empty = replace(bare, arms=(replace(bare.arms[0], records=()),))
    for each in (bare, empty):
        for suffix in (".html", ".md", ".xml", ".json", ".arms.csv", ".csv"):
            assert REPORTS[suffix].render(each), suffix
    assert "No gate was set" in campaign_html(bare)
    assert Tree.fromstring(campaign_junit(bare).encode()).findall(".//error") == []


def test_trials_that_could_not_be_run_are_told(result: CampaignResult) -> None:
    broken = replace(result.arms[0], failures=(Failure(0, 9, "its worker died <3 times>"),))
    lacking = replace(result, arms=(broken, *result.arms[1:]))
    assert "its worker died &lt;3 times&gt;" in campaign_html(lacking)
    assert "**1 trial could not be run**" in campaign_markdown(lacking)
    assert "could not be run" not in campaign_markdown(result)


class _Page(HTMLParser):
    """Checks nesting and collects what matters."""

    VOID = frozenset({"meta", "link", "br", "wbr", "path", "use", "stop"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href"):
                self.references.append(str(value))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(result: CampaignResult) -> str:
    return campaign_html(result)


class TestHtml:
    def test_is_well_formed_and_self_contained(self, page: str) -> None:
        parsed = _Page()
        parsed.feed(page)
        assert parsed.open == []
        assert "script" not in parsed.tags
        assert len(parsed.ids) == len(set(parsed.ids))
        for reference in parsed.references:
            assert reference == "data:," or (reference.startswith("#") and reference[1:] in parsed.ids), reference
        assert not re.search(r"https?://(?!www\.w3\.org/)|url\((?!#)|@import", page)

    def test_text_from_outside_is_escaped(self, page: str) -> None:
        assert "<b>&amp;</b>" not in page
        assert "demo &lt;b&gt;&amp;amp;&lt;/b&gt;" in page

    def test_every_plot_has_a_name_a_description_and_a_table(self, page: str) -> None:
        figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
        assert len(figures) == page.count("<figure")
        for figure in figures:
            assert re.search(r'<svg [^>]*role="img" aria-label="[^"]{40,}"', figure)
            assert "<title>" in figure
            assert "<desc>" in figure
            assert figure.index("</svg>") < figure.index("<table>")

    def test_every_section_is_there(self, page: str) -> None:
        for section in SECTIONS:
            assert f'<section id="{section.name}"' in page
            assert f'href="#{section.name}"' in page

    def test_colours_follow_the_page(self, page: str) -> None:
        drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
        assert "var(--series-0)" in drawn
        assert "var(--ink)" in drawn
        assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()

    def test_the_verdict_comes_first(self, page: str) -> None:
        body = page[page.index("<body>") :]
        assert body.index('class="verdict fail"') < body.index("<h2>")
        assert f"<strong>{'Fail'}</strong>" in body

    def test_numbers_are_those_of_the_records(self, page: str, result: CampaignResult) -> None:
        table = page[page.index('<section id="arms">') :]
        for arm in result.arms:
            accuracy = arm.accuracy()
            assert accuracy is not None
            assert f"{percent(accuracy.mean)} <small>[{percent(accuracy.low)}, {percent(accuracy.high)}]" in table

    def test_a_thousand_trials_make_no_larger_plot(self, result: CampaignResult, page: str) -> None:
        arms = tuple(replace(arm, records=arm.records * 250) for arm in result.arms[:2])
        few = campaign_html(replace(result, arms=result.arms[:2]))
        assert len(campaign_html(replace(result, arms=arms))) < len(few) * 1.1


class TestMarkdown:
    def test_says_it_all(self, result: CampaignResult) -> None:
        text = campaign_markdown(result)
        assert text.startswith("# ❌ Fail: bit flips in demo \\<b\\>")
        assert text.count("\n| q2.5 | bitflip") == 7
        assert "```sh\nfaultcli campaign" in text
        assert text.count("| fail |") == sum(g.verdict is Verdict.FAIL for arm in result.arms for g in arm.gates)

    def test_fits_a_step_summary_however_many_arms(self, result: CampaignResult) -> None:
        assert MOST_BYTES < 2**20
        text = campaign_markdown(replace(result, arms=result.arms * 40), most_bytes=50_000)
        assert len(text.encode()) <= 50_000
        assert re.search(r"… and [\d,]+ more arms: the HTML and CSV reports hold them all\.", text)
        shown = [line for line in text.splitlines() if line.startswith("| fp16 | bitflip:0.01 |")]
        assert shown  # the worst come first


class TestJunit:
    @pytest.fixture
    def root(self, result: CampaignResult) -> Tree.Element:
        return Tree.fromstring(campaign_junit(result).encode())

    def test_is_valid(self, result: CampaignResult) -> None:
        etree = pytest.importorskip("lxml.etree")
        schema = etree.XMLSchema(etree.parse(GOLDEN / "junit.xsd"))
        schema.assertValid(etree.fromstring(campaign_junit(result).encode()))

    def test_a_test_case_per_arm_and_gate(self, root: Tree.Element, result: CampaignResult) -> None:
        cases = root.findall("testsuite/testcase")
        verdicts = [gate.verdict for arm in result.arms for gate in arm.gates]
        assert len(cases) == len(verdicts) == 2 * len(result.arms)
        kinds = {Verdict.PASS: None, Verdict.FAIL: "failure", Verdict.INCONCLUSIVE: "error"}
        for case, verdict in zip(cases, verdicts, strict=True):
            found = [child.tag for child in case if child.tag != "system-out"]
            assert found == [kinds[verdict]] * (verdict is not Verdict.PASS)
        assert {"pass", "fail", "inconclusive"} == set(verdicts)
        assert root.get("failures") == str(verdicts.count(Verdict.FAIL))
        assert root.get("errors") == str(verdicts.count(Verdict.INCONCLUSIVE))
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)

    def test_control_characters_do_not_break_it(self, result: CampaignResult) -> None:
        assert result.provenance is not None
        odd = replace(result, provenance=replace(result.provenance, model="a\x00\x1b]b"))
        assert "a\\x00\\x1b]b" in campaign_junit(odd)
        Tree.fromstring(campaign_junit(odd).encode())


def test_csv_has_a_row_per_arm_or_trial(result: CampaignResult) -> None:
    arms = list(csv.DictReader(io.StringIO(REPORTS[".arms.csv"].render(result).decode())))
    document = json.loads(REPORTS[".json"].render(result))
    for row, arm in zip(arms, document["arms"], strict=True):
        assert float(row["accuracy_mean"]) == arm["accuracy"]["mean"]
        assert (row["gain_over_none_mean"] == "") == (arm["gain_over_none"] is None)
        assert int(row["trials"]) == arm["trials"]
    trials = list(csv.DictReader(io.StringIO(REPORTS[".csv"].render(result).decode())))
    assert [float(row["top1"]) for row in trials] == [a for arm in document["arms"] for a in arm["trial_accuracies"]]
