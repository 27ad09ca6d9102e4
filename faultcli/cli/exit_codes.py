"""With which code a command ends: a contract that scripts rely on. What a user's mistake ends with is in `errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faultcli.campaign.records import CampaignResult

DONE = 0
GATE_FAILED = 1
DAMAGED = 1  # something is lost
INTERNAL_ERROR = 3
INCONCLUSIVE = 4
INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


def code_of(result: CampaignResult) -> int:
    """Return the code that the gates of a campaign end it with: a gate that is open is no pass."""
    from faultcli.campaign.gates import Verdict

    if result.verdict is Verdict.FAIL:
        return GATE_FAILED
    if result.verdict is not Verdict.PASS and any(arm.gates for arm in result.arms):
        return INCONCLUSIVE
    return DONE
