"""Which tensors are at risk."""

from typing import NamedTuple

import pytest

from faultcli.errors import FaultcliError
from faultcli.faults.selection import select


class Info(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]


TENSORS = [
    Info("conv1.weight", "F32", (4, 3, 3, 3)),
    Info("conv1.bias", "F32", (4,)),
    Info("fc.weight", "BF16", (10, 4)),
    Info("norm.scale", "F16", ()),
    Info("steps", "I64", ()),
    Info("table", "I8", (4, 4)),
    Info("block.scale", "F8_E8M0", (4, 4)),
]


@pytest.mark.parametrize(
    ("target", "include", "exclude", "chosen"),
    [
        ("weights", [], [], ["conv1.weight", "fc.weight"]),
        ("all", [], [], ["conv1.weight", "conv1.bias", "fc.weight", "norm.scale"]),
        ("any", [], [], [t.name for t in TENSORS]),
        ("weights", ["conv*"], [], ["conv1.weight"]),
        ("all", [], ["conv*", "norm.*"], ["fc.weight"]),
        ("any", ["table", "fc.*"], [], ["fc.weight", "table"]),
    ],
)
def test_selection(target: str, include: list[str], exclude: list[str], chosen: list[str]) -> None:
    assert select(TENSORS, target=target, include=include, exclude=exclude) == chosen


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"target": "wieghts"}, "unknown target 'wieghts'"),
        ({"include": ["cnv*"]}, r"--include cnv\*: matches no tensor"),
        ({"exclude": ["Conv*"]}, r"--exclude Conv\*: matches no tensor"),
        ({"include": ["steps"]}, "no tensor is left"),
        ({"exclude": ["*"]}, "no tensor is left"),
    ],
)
def test_a_selection_of_nothing_is_refused(options: dict[str, list[str]], complaint: str) -> None:
    with pytest.raises(FaultcliError, match=complaint):
        select(TENSORS, **options)
