"""A campaign before its first trial, as a table: all of it can be read on a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from faultcli.campaign.plan import Arm, Plan, Question
from faultcli.campaign.preview import ArmPreview, Preview
from faultcli.faults.laws import AnyFlips, parse_law
from faultcli.faults.memories import parse_range
from faultcli.protect.chain import parse_chain
from faultcli.report.preview import preview_table

CHAINS = ("none", "scale=max:channel,guard,secded=64")


def planned(bits: int, fault: str | None, columns: int) -> str:
    law = AnyFlips() if fault is None else parse_law(fault)
    arms = tuple(Arm("int8-channel", law, parse_chain(chain)) for chain in CHAINS)
    flips = (1e-8 * bits, 1e-2 * bits) if fault is None else (1e-3 * bits,)
    rows = tuple(ArmPreview(arm, bits, 0.5, flips, 1000, 9607, 387, 0.1, 0, 12_345.0) for arm in arms)
    question = Question(parse_range("1e-8:1e-2")) if fault is None else None
    table = preview_table(Preview(Plan(arms, 1000, question=question), "0" * 64, 50_000, 0.01, 0.4, rows))
    text = io.StringIO()
    Console(file=text, width=columns).print(table)
    return text.getvalue()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("fault", ["bitflip:0.0001", "burst:1e-05,length=4,include=layer4.*", None])
@pytest.mark.parametrize("bits", [1_221_120, 817_825_024, 56_000_000_000])
def test_a_plan_can_be_read(bits: int, fault: str | None, columns: int) -> None:
    text = planned(bits, fault, columns)
    assert "…" not in text, text
    assert all(len(line) <= columns for line in text.splitlines())
    for words in (f"{bits:,}", "1,000", "9,607", "387", "3.4 h", "int8-channel", "secded=64", "50,000 inputs"):
        assert words in text, text
