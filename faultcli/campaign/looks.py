"""What arms that recalibrate or correct need of a subject."""

from __future__ import annotations

from collections.abc import Sequence

from faultcli.campaign.plan import Arm
from faultcli.campaign.subject import Subject


def check_looks(
    subject: Subject, arms: Sequence[Arm], recalibrate: str = "--recalibrate", corrector: str = "--corrector"
) -> None:
    """Refuse a recalibration of what is no classifier, and a corrector of what has no logits.

    Args:
        subject: what is put to the test.
        arms: of the campaign.
        recalibrate, corrector: what the user calls the two.

    Raises:
        UsageError: there is such an arm.
    """
    if any(arm.recalibrate for arm in arms):
        subject.classifier(recalibrate)
    if any(arm.correct for arm in arms):
        subject.answering(corrector)
