"""A campaign as JUnit XML: a test case per arm and gate, for the test tab of a CI server.

A gate that failed is a `failure`. One that the trials do not decide is an `error` and not `skipped`: a server counts
skipped tests as fine, and an open gate is not (the command ends with 4, not with 0). An arm without gates is a test
case that passes, so that its numbers are seen. What was asked for and has not been run is an `error` as well.
Elements and attributes are those that servers agree on ("JUnit XML file format", github.com/testmoapp/junitxml).
"""

from __future__ import annotations

from xml.etree import ElementTree as Tree

from faultcli.campaign.gates import Verdict
from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.report.summary import arm_cells, arm_columns, gate_text, measured, provenance_rows, unit
from faultcli.report.table import outstanding_lines, until_decided
from faultcli.report.text import counted, printable


def campaign_junit(result: CampaignResult) -> str:
    """Return the document. Times are those of the trials."""
    model = result.provenance.model if result.provenance else "checkpoint"
    suite = Tree.Element("testsuite", {"name": _text(f"faultcli campaign {model}")})
    properties = Tree.SubElement(suite, "properties")
    for name, value in provenance_rows(result):
        Tree.SubElement(properties, "property", name=name, value=_text(value))
    for arm in result.arms:
        _cases(suite, arm, result)
    for line in outstanding_lines(result):
        case = Tree.SubElement(suite, "testcase", classname="faultcli.incomplete", name=_text(line), time=_seconds(0))
        Tree.SubElement(case, "error", message="asked for, and not run yet", type="incomplete").text = _text(line)
    totals = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "skipped": "0",
        "time": _seconds(sum(record.seconds for arm in result.arms for record in arm.records)),
    }
    suite.attrib.update(totals)
    root = Tree.Element("testsuites", {"name": "faultcli"} | totals)
    root.append(suite)
    Tree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Tree.tostring(root, encoding="unicode") + "\n"


def _cases(suite: Tree.Element, arm: ArmResult, result: CampaignResult) -> None:
    numbers = "\n".join(
        f"{name}: {cell}" for name, cell in zip(arm_columns(result), arm_cells(arm, result), strict=True)
    )
    group = f"faultcli.{arm.arm.format}.{arm.arm.fault.spec}".replace(" ", "")
    # The trials are the same for all gates of an arm; their time is shared so that it adds up.
    share = _seconds(sum(record.seconds for record in arm.records) / max(1, len(arm.gates)))
    for gate in arm.gates:
        name = f"{arm.arm.hardening}: {gate_text(gate)}"
        case = Tree.SubElement(suite, "testcase", classname=_text(group), name=_text(name), time=share)
        found = f"{measured(gate, result)}{unit(gate)} after {counted(gate.trials, 'trial')}"
        if gate.verdict is Verdict.FAIL:
            Tree.SubElement(case, "failure", message=_text(f"measured {found}"), type=gate.gate.name).text = _text(name)
        elif gate.verdict is Verdict.INCONCLUSIVE:
            message = f"not decided: measured {found}{until_decided(gate) or '; run more trials'}"
            Tree.SubElement(case, "error", message=_text(message), type="inconclusive").text = _text(name)
        Tree.SubElement(case, "system-out").text = _text(numbers, lines=True)
    if not arm.gates:
        case = Tree.SubElement(suite, "testcase", classname=_text(group), name=_text(arm.arm.hardening), time=share)
        Tree.SubElement(case, "system-out").text = _text(numbers, lines=True)


def _text(text: str, *, lines: bool = False) -> str:
    """Return text that XML 1.0 can hold."""
    return "\n".join(map(printable, text.split("\n"))) if lines else printable(text)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
