"""What a plan is for: a memory, faults, an accuracy to be held, and what may protect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.formats import parse_format
from faultcli.protect.chain import Chain, parse_chain

CANDIDATES = (
    *("none", "inplace=0.5", "inplace=1", "inplace=2", "inplace=4", "secded=64", "tmr=msb:4", "tmr"),
    *("ldpc=0.5", "ldpc=1", "ldpc=2.5"),  # read by hosts only
)


@dataclass(frozen=True)
class PlanGoal:
    """What a plan is for.

    `min_accuracy`: to be held, a fraction; or `max_drop`: below that of the checkpoint as it is. `margin`: of the drop
    that the choice leaves free. `choose_on`: so many inputs, the first. `choose_maps`, `verify_maps`: fault maps of a
    plan. `seed`: of those that are chosen by; the next ones are of those that are judged by.
    """

    format: str
    law: FaultLaw
    min_accuracy: float | None = None
    max_drop: float = 0.01
    candidates: Sequence[Chain] = tuple(map(parse_chain, CANDIDATES))
    seed: int = 0
    choose_on: int = 200
    choose_maps: int = 2
    verify_maps: int = 20
    margin: float = 0.25
    confidence: float = 0.95

    def allowed_drop(self, original: float) -> float:
        """Return how far accuracy may fall below that of the checkpoint as it is.

        Raises:
            UsageError: it is no higher than what is asked for.
        """
        if self.min_accuracy is None:
            return self.max_drop
        if original <= self.min_accuracy:
            raise UsageError(
                f"--min-accuracy {self.min_accuracy:g}: without faults it is {original:.4g}", "ask for less"
            )
        return original - self.min_accuracy

    def __post_init__(self) -> None:
        if self.format != "native":
            parse_format(self.format)  # or every candidate would be left out for it
        if self.min_accuracy is not None and not 0 < self.min_accuracy <= 1:
            raise UsageError(f"an accuracy of {self.min_accuracy:g}: is a fraction", "--min-accuracy 0.9 is 90 %")
        if not 0 < self.max_drop < 1:
            why = "holds whatever happens, as it is a fraction" if self.max_drop >= 1 else "is to be above 0"
            raise UsageError(f"--max-drop {self.max_drop:g}: {why}", "--max-drop 0.01 is one point")
        if min(self.choose_on, self.choose_maps, self.verify_maps) < 1:
            raise UsageError("--choose-on, --choose-maps and --trials are 1 or more", "leave them out")
        for chain in self.candidates:
            if chain.rules or chain.roles:
                raise UsageError(f"--candidate {chain.text}: is no chain for any tensor", "such as secded=64")
        if self.law.ber is None:
            raise UsageError(f"{self.law.spec}: has no bit-error rate", "name one: --ber 1e-3")
