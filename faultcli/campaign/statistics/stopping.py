"""When a campaign has enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from faultcli.campaign.statistics.sequences import ConfidenceSequence

StopReason = Literal["trials", "half-width", "gates"]


@dataclass(frozen=True)
class StopRule:
    """When an arm stops. Whatever is reached first of `trials` and of what was asked for otherwise.

    An arm that may stop early must be reported with the interval of its `ConfidenceSequence`: the one for a fixed
    number of trials does not hold for a number that the trials themselves chose.
    """

    trials: int | None = None  # never more than these
    half_width: float | None = None  # enough when the confidence sequence of the accuracy is as narrow
    gates: bool = False  # enough when every gate of the arm is decided

    @property
    def sequential(self) -> bool:
        """Whether the number of trials depends on the trials."""
        return self.half_width is not None or self.gates

    def reason(self, sequence: ConfidenceSequence, *, undecided_gates: int = 0) -> StopReason | None:
        """Return why an arm stops now; None to go on.

        With a half-width and gates both must be satisfied; the reason is the one named first.

        Args:
            sequence: of the arm's accuracy, holding every trial so far.
            undecided_gates: gates of this arm without a verdict.
        """
        if self.trials is not None and sequence.trials >= self.trials:
            return "trials"
        narrow = self.half_width is None or sequence.half_width <= self.half_width
        if not self.sequential or not narrow or (self.gates and undecided_gates):
            return None
        return "half-width" if self.half_width is not None else "gates"
