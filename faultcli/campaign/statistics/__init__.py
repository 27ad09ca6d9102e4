"""What trials say and how sure that is. The unit is the trial (one fault map): inputs inside a trial are clustered.

    intervals  a mean after a number of trials that was fixed beforehand
    one_sided  how large or small a share can still be
    sequences  a mean while trials come in, valid at every look
    samples    how many trials a campaign takes
    smoothing  a mean along an axis, from trials at many places of it
    stopping   when a campaign has enough

Pure functions and small accumulators on plain numbers; undefined is None. docs/statistics.md has the measured coverage.
"""

from faultcli.campaign.statistics.intervals import Interval, certain, mean_interval, unseen_share
from faultcli.campaign.statistics.one_sided import at_least, at_most
from faultcli.campaign.statistics.samples import sample_size, trials_needed
from faultcli.campaign.statistics.sequences import ConfidenceSequence, MeanTest, sequence_interval
from faultcli.campaign.statistics.stopping import StopReason, StopRule

__all__ = [
    "ConfidenceSequence",
    "Interval",
    "MeanTest",
    "StopReason",
    "StopRule",
    "at_least",
    "at_most",
    "certain",
    "mean_interval",
    "sample_size",
    "sequence_interval",
    "trials_needed",
    "unseen_share",
]
