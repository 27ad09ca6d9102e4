"""What an extension builds on: the tables that hold what is built in, the base classes of what goes into them, and the
pieces that definitions are made of. Programs that only use faultcli need none of it.

    from faultcli import extend

    extend.NAMED["fp5-e2m2"] = extend.FloatFormat("fp5-e2m2", 2, 2, 1, extend.Specials.NONE)
"""

from faultcli.faults.law import FaultLaw, Region
from faultcli.faults.laws import LAWS
from faultcli.faults.maps import NO_FAULTS, WordFaults, combine
from faultcli.faults.sampling import Stream, bernoulli_positions
from faultcli.formats import NAMED, NumberFormat, parse_format
from faultcli.formats.floats import FloatFormat, Specials
from faultcli.protect.base import Fitted, Protection, Written
from faultcli.protect.chain import PROTECTIONS
from faultcli.protect.estimate import estimate_ber
from faultcli.recover.base import Corrector
from faultcli.recover.methods import METHODS
from faultcli.report.formats import REPORTS, ReportFormat, render
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import Dataset, make_dataset
from faultcli.workload.models.architectures import ARCHITECTURES, Architecture
from faultcli.workload.preprocess import Preprocess

__all__ = [
    "ARCHITECTURES",
    "LAWS",
    "METHODS",
    "NAMED",
    "NO_FAULTS",
    "PROTECTIONS",
    "REPORTS",
    "Architecture",
    "Corrector",
    "Dataset",
    "FaultLaw",
    "Fitted",
    "FloatFormat",
    "NumberFormat",
    "Preprocess",
    "Protection",
    "Region",
    "ReportFormat",
    "Specials",
    "Stream",
    "WordFaults",
    "Written",
    "bernoulli_positions",
    "combine",
    "estimate_ber",
    "load_data",
    "make_dataset",
    "parse_format",
    "render",
]
