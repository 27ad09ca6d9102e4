"""What a campaign runs: arms, trials, seed; and the hash of everything that changes a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from faultcli.campaign.gates import Gate
from faultcli.campaign.statistics import StopRule
from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.formats import parse_format
from faultcli.protect.chain import UNPROTECTED, Chain
from faultcli.recover.applied import Correct
from faultcli.recover.batchnorm import Recalibrate

RESULT_SCHEMA = "faultcli.campaign/1"  # a change of what a trial's numbers mean is a new version


@dataclass(frozen=True)
class Arm:
    """One condition of a campaign: the number format of the memory, its protections, and the law its faults follow."""

    format: str
    fault: FaultLaw
    protect: Chain = UNPROTECTED
    recalibrate: Recalibrate | None = None
    correct: Correct | None = None

    @property
    def label(self) -> str:
        """Short text for progress and messages."""
        parts = [self.format, self.fault.spec, *([self.protect.text] if self.protect != UNPROTECTED else [])]
        return " ".join(parts + [step.text for step in (self.recalibrate, self.correct) if step])

    @property
    def identity(self) -> list[str | None]:
        """What makes it another arm, as text."""
        recalibrate = self.recalibrate.text if self.recalibrate else None
        correct = [f"{self.correct.window}@{self.correct.sha256}"] if self.correct else []
        return [self.format, self.protect.text, self.fault.spec, recalibrate, *correct]

    @property
    def memory(self) -> tuple[str, Chain, float | None]:
        """What decides how the memory is written: format, protections, and the bit-error rate if they need one."""
        return self.format, self.protect, self.fault.ber if self.protect.needs_ber else None


@dataclass(frozen=True)
class Plan:
    """Everything that is asked of a campaign, apart from the checkpoint and the workload.

    Arms share trial numbers: where format and law are the same, so are the faults in the words of the tensors.
    """

    arms: tuple[Arm, ...]
    trials: int  # per arm, at the most
    seed: int = 0
    target: str = "weights"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()  # an arm stops early when all of its gates are decided
    until_half_width: float | None = None  # and when the interval of its accuracy is as narrow as this
    confidence: float = 0.95  # of intervals, and that no gate's verdict is wrong

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UsageError(f"--trials {self.trials}: a campaign has at least 1 trial")
        if not 0 < self.confidence < 1:
            raise UsageError(f"--confidence {self.confidence:g}: lies between 0 and 1", "try: --confidence 0.95")
        if self.until_half_width is not None and not 0 < self.until_half_width < 1:
            problem = f"--until-ci {self.until_half_width:g}: half of an interval's width lies between 0 and 1"
            raise UsageError(problem, "try: --until-ci 0.01, which is one point of accuracy")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: a seed is a whole number from 0")
        repeated = {arm for arm in self.arms if self.arms.count(arm) > 1}
        if repeated:
            raise UsageError(f"the arm {next(iter(repeated)).label} is asked for twice", "name every level once")

    @property
    def stop_rule(self) -> StopRule:
        """When an arm has enough trials."""
        return StopRule(self.trials, self.until_half_width, gates=bool(self.gates))

    def identity(self, *, checkpoint: str, workload: str, unlabelled: str | None = None) -> str:
        """Return the SHA-256 of everything that changes a trial's result, and of nothing else: not of how many trials
        there are, nor of what is concluded from them.

        Args:
            checkpoint: content hash of the checkpoint.
            workload: `Workload.identity`: architecture, data, preprocessing, batch size, threads.
            unlabelled: content hash of the inputs that recalibration and correctors look at, if any do.
        """
        content = {
            "schema": RESULT_SCHEMA,
            "checkpoint": checkpoint,
            "workload": workload,
            "unlabelled": unlabelled,
            "arms": [arm.identity for arm in self.arms],
            "seed": self.seed,
            "selection": [self.target, list(self.include), list(self.exclude)],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def cross(
    formats: Sequence[str],
    faults: Sequence[FaultLaw],
    protect: Sequence[Chain] = (),
    recalibrate: Sequence[Recalibrate | None] = (),
    correct: Sequence[Correct | None] = (),
) -> tuple[Arm, ...]:
    """Return every format under every law behind every chain (none: unprotected) with every recalibration (none: as
    stored) and every corrector (none: logits as they are), formats outermost.

    Raises:
        UsageError: no format or no law, or a format that is not in the table.
    """
    if not faults:
        raise UsageError("no fault to inject", "name one with --ber P or --fault SPEC")
    for name in formats:
        if name != "native":
            parse_format(name)
    return tuple(
        Arm(*conditions)
        for conditions in product(formats, faults, protect or [UNPROTECTED], recalibrate or [None], correct or [None])
    )
