"""Two-stage sampling: every trial is one fault map on a random subset of the inputs.

Fault maps are the first stage, drawn independently; inputs are the second, n of N without replacement, independently
for every trial. The mean over trials of a number that is a mean over inputs is then without bias for that over all
inputs and fault maps, and the numbers of trials are independent and alike, so their own variance holds both stages:
σ² between maps + S²·(1/n − 1/N) within them (Cochran, Sampling Techniques, 1977, chapter 10). Intervals over trials
need nothing besides.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from faultcli.errors import UsageError, WorkloadError
from faultcli.faults.sampling import Stream, distinct_positions
from faultcli.workload.base import BaseWorkload
from faultcli.workload.classifier import Workload
from faultcli.workload.late.rows import LateRows
from faultcli.workload.late.starting import Run
from faultcli.workload.metrics import GoldenRun, Outcome, Sample, measure

OPTION = "--inputs-per-trial"
_COMPARED = 32  # inputs that are run once more in the company that trials give them


def rows_of(seed: int, trial: int, inputs: int, size: int) -> Tensor:
    """Return which inputs a trial runs: `size` of them, int64 ascending, none twice. Arms share them."""
    stream = Stream("inputs of a trial", seed, trial, inputs)
    return torch.from_numpy(distinct_positions(stream, inputs, size)).sort().values


def check_subsets(workload: BaseWorkload, size: int) -> Workload:
    """Return the workload as one whose inputs can be run a few at a time, `size` in every trial.

    Raises:
        UsageError: it is none, or there are not more inputs than that.
    """
    name = workload.architecture.name
    if not isinstance(workload, Workload):
        raise UsageError(
            f"{OPTION}: counts the answers of a classifier one by one, and {name} is judged by all data together",
            "leave it out; --limit N shortens the data",
        )
    if workload.dataset.widths:
        raise UsageError(f"{OPTION}: {workload.data_name}: its inputs differ in length", "leave it out, or pad them")
    batch = workload.architecture.batch
    if batch is not None and size % batch:
        raise UsageError(f"{OPTION} {size}: {name} was exported for batches of {batch}", f"try: {OPTION} {batch}")
    if not 1 <= size < len(workload):
        raise UsageError(
            f"{OPTION} {size}: there are {len(workload):,} inputs, and a subset has from 1 to fewer than all",
            "leave it out to run all of them, or name fewer",
        )
    return workload


@dataclass
class Subsets:
    """The inputs of trials, and what a memory answers to them without faults. The model has to hold its values.

    Attributes:
        workload: the model on all inputs.
        seed: of the campaign.
        size: inputs per trial, n.
        batch_size: inputs per forward pass, the same in every run.
        logits: without faults, float32 [N, K].
        outcome: without faults, on all inputs.
        seconds: that a run of one subset takes.
    """

    workload: Workload
    seed: int
    size: int
    batch_size: int
    logits: Tensor
    outcome: Outcome
    seconds: float = 0.0

    @classmethod
    def of(cls, workload: Workload, seed: int, size: int) -> Self:
        """Run the model without faults, in batches as trials have them.

        Raises:
            WorkloadError: what it answers to an input depends on which others are beside it.
        """
        batches = -(-size // workload.batch_size)
        batch_size = -(-size // batches)
        logits = workload.answers_to(torch.arange(len(workload)), batch_size)
        found = cls(workload, seed, size, batch_size, logits, measure(logits, workload.labels, GoldenRun(logits)))
        for trial in range(-(-_COMPARED // size)):
            start = time.perf_counter()
            rows = found.rows(trial)
            outcome = found.run(rows)
            found.seconds = time.perf_counter() - start
            if workload.noise is None and (outcome.sdc or outcome.due != found.healthy(rows).due):
                raise WorkloadError(
                    f"{workload.architecture.name}: its answer to an input depends on which others are run with it",
                    f"leave {OPTION} out",
                )
        return found

    @property
    def golden(self) -> GoldenRun:
        """The answers without faults to all inputs."""
        return GoldenRun(self.logits)

    def rows(self, trial: int) -> Tensor:
        """Return which inputs a trial runs."""
        return rows_of(self.seed, trial, len(self.workload), self.size)

    def healthy(self, rows: Tensor) -> Outcome:
        """Return what some inputs give without faults, which costs no run."""
        return self._measured(self.logits[rows.to(self.logits.device)], rows)

    def run(self, rows: Tensor, run: Run | None = None) -> Outcome:
        """Run the model as it is now on some inputs; `run`: as `late` has it, None: from the first layer on."""
        return self._measured(self.workload.answers_to(rows, self.batch_size, run), rows)

    def late_start(self, names: Collection[str]) -> LateRows | None:
        """Return what runs trials faster whose faults are in few of these tensors."""
        return self.workload.late_rows(self.golden, names, self.batch_size, self.size)

    def _measured(self, logits: Tensor, rows: Tensor) -> Outcome:
        labels = self.workload.labels[rows]
        clean = self.logits[rows.to(self.logits.device)]
        right = measure(clean, labels).correct1
        assert right is not None
        assert self.outcome.correct1 is not None
        sample = Sample(len(self.workload), self.outcome.correct1, right)
        return replace(measure(logits, labels, GoldenRun(clean)), sample=sample)
