"""What differs between a checkpoint and a memory dump of it, and which fault law that looks like.

dumps        what a dump can be: a checkpoint, bytes without a header, one array
comparing    which bits differ, word by word
exact        distributions and intervals for counts
assumptions  what the plainest law assumes, tested
bursts       from flipped bits back to bursts
fitting      the law that explains the flips best
"""

from faultcli.difference.assumptions import ASSUMPTIONS, AssumptionTest, check_assumptions
from faultcli.difference.comparing import Difference, TensorDifference, compare
from faultcli.difference.dumps import RawPlace, open_dump
from faultcli.difference.exact import RealisedRate, clopper_pearson
from faultcli.difference.fitting import FittedLaw, LawFit, fit

__all__ = [
    "ASSUMPTIONS",
    "AssumptionTest",
    "Difference",
    "FittedLaw",
    "LawFit",
    "RawPlace",
    "RealisedRate",
    "TensorDifference",
    "check_assumptions",
    "clopper_pearson",
    "compare",
    "fit",
    "open_dump",
]
