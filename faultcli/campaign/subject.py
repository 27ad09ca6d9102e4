"""What a campaign puts to the test: a model that runs on data, and the tensors of its checkpoint that are at risk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from faultcli.campaign.plan import Arm, Identity, Plan
from faultcli.memory import MemoryImage
from faultcli.protect.scale import Factors
from faultcli.workload.base import BaseWorkload
from faultcli.workload.data import Dataset


@dataclass(frozen=True)
class Subject:
    """A model on data, and what of it lies in the memory.

    Attributes:
        workload: holds the checkpoint; what takes a subject leaves it in the same state, bit for bit.
        tensors: those at risk, by name, as in the checkpoint.
        checkpoint_hash: content hash of the checkpoint, for a plan's identity.
        factors: those of a scaled checkpoint, for arms that do not scale by themselves.
        unlabelled: inputs for arms that recalibrate or correct; not those that are evaluated.
    """

    workload: BaseWorkload
    tensors: Mapping[str, Tensor]
    checkpoint_hash: str
    factors: Mapping[str, Factors] | None = None
    unlabelled: Dataset | None = None

    def identity(self, plan: Plan) -> Identity:
        """Return what a plan is, run on this subject."""
        return plan.identity(
            checkpoint=self.checkpoint_hash,
            workload=self.workload.identity(),
            unlabelled=self.unlabelled.sha256() if self.unlabelled else None,
        )

    def image(self, arm: Arm) -> MemoryImage:
        """Return the tensors as they lie in the memory of an arm.

        Raises:
            FormatError, UsageError: a tensor cannot be stored in this format, or so protected.
        """
        return MemoryImage(self.tensors, *arm.memory, self.factors)
