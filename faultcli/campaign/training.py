"""A corrector for a subject, as `train-corrector` makes it: on which inputs it is trained, looks and is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import FaultMap
from faultcli.protect.chain import UNPROTECTED, Chain
from faultcli.recover.align import SMALLEST_WINDOW
from faultcli.recover.base import Card, Setting, refuse_window
from faultcli.recover.damaged_logits import Answering
from faultcli.recover.edmn import EdmnOptions
from faultcli.recover.language import LanguageCorrector
from faultcli.recover.methods import DEFAULT_WINDOW, TrainingOptions, kind_of, smallest_window
from faultcli.recover.training.experiment import (
    Experiment,
    TrainedCorrector,
    TrainingSet,
    cut,
    known_damage,
    shuffled,
    unseen_damage,
)
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.data.tokens import TokenDataset, load_tokens
from faultcli.workload.language import LanguageWorkload

_SHARED = 0.1  # of the inputs to train on: so many may be among those of the report, as duplicates are


@dataclass(frozen=True)
class TrainingPlan:
    """How a corrector is trained and judged.

    Attributes:
        method: a name of `recover.methods.METHODS`.
        seed: of the faults, of the training, and of the order of the inputs.
        data: labelled inputs to train on and to look at, or their name as `--data` takes it; None: the training split
            of the subject's data, else half of them.
        limit: at most so many of these.
        window: how many of them the device looks at, without their labels; None: 1000, a quarter where they are few.
        maps: fault maps per law to train on.
        report_maps: others, to judge by.
        perceptron: of the methods that have one.

    Raises:
        UsageError: no such method, or a seed that generators do not take.
    """

    method: str = "adaptive"
    seed: int = 0
    data: str | TrainingSet | None = None
    limit: int = 5000
    window: int | None = None
    maps: int = 6
    report_maps: int = 20
    perceptron: EdmnOptions = field(default_factory=EdmnOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            problem = f"--seed {self.seed}: a seed is a whole number from 0, of 64 bits at most"
            raise UsageError(problem, "--seed 0")
        if self.limit < 1:
            raise UsageError(f"--train-limit {self.limit}: leaves nothing to train on", "--train-limit 5000")
        if self.window is not None and self.window < 1:
            raise UsageError(f"--window {self.window}: is no window", "--window 1000 works well for 10 classes")
        kind_of(self.method, "unseen damage")

    def method_for(self, workload: Answering) -> str:
        """Return the method that a model is corrected by: the one that is asked for, or what `adaptive` is for it.

        Raises:
            UsageError: it is of no use for this kind of model.
        """
        language = isinstance(workload, LanguageWorkload)
        if self.method == "adaptive" and language:
            return LanguageCorrector.name
        if language != (self.method == LanguageCorrector.name):
            kind, other = ("a language model", "language") if language else ("a classifier", "adaptive")
            raise UsageError(
                f"--method {self.method}: is not for {workload.architecture.name}, which is {kind}",
                f"try: --method {other}",
            )
        return self.method


@dataclass(frozen=True)
class TrainingInputs:
    """Three sets of inputs (of a language model: of sequences) that have none in common.

    `held_out`: half of the subject's; None: all of them are."""

    training: TrainingSet
    window: TrainingSet
    held_out: TrainingSet | None


def training_inputs(subject: Subject, plan: TrainingPlan) -> TrainingInputs:
    """Return the inputs to train on, those to look at, and those to judge by.

    Raises:
        UsageError: the model has no logits, or there are too few inputs.
        WorkloadError: the data do not fit the model.
    """
    subject.selection.check_tensors("train-corrector")
    answering = subject.answering("train-corrector")
    plan.method_for(answering)
    if isinstance(answering, LanguageWorkload):
        return _training_tokens(answering, plan)
    workload, held_out = answering, None
    data = plan.data if plan.data is not None else subject.training_split
    assert not isinstance(data, TokenDataset)
    if data is None:
        everything, held_out = cut(shuffled(workload.dataset, plan.seed), len(workload.dataset) // 2)
    else:
        architecture = workload.architecture
        if isinstance(data, str):
            data = load_data(data, label_offset=architecture.label_offset, **architecture.wanted)
        everything = shuffled(data, plan.seed)
    everything = everything.first(plan.limit)
    if plan.data is not None:
        _refuse_reported(everything.inputs, workload.dataset.inputs, everything.name)
    most = max(1, len(everything) // 4)
    window = min(DEFAULT_WINDOW, most) if plan.window is None else plan.window
    if len(everything) < 3 * window:
        smaller = f"try: --window {most}, or " if most >= SMALLEST_WINDOW else ""
        raise UsageError(
            f"{everything.name}: {len(everything)} training inputs are too few for a window of {window}",
            f"{smaller}name more of them: --train-data D, or a larger --train-limit",
        )
    looked_at, rest = cut(everything, window)
    return TrainingInputs(rest, looked_at, held_out)


def _training_tokens(workload: LanguageWorkload, plan: TrainingPlan) -> TrainingInputs:
    """As `training_inputs`; limits and windows are tokens, sequences stay together."""
    language, data, held_out = workload.architecture.language, plan.data, None
    assert language is not None
    assert not isinstance(data, Dataset)
    text = load_tokens(data, language) if isinstance(data, str) else data or workload.tokens
    text = text.rows(torch.from_numpy(np.random.default_rng(plan.seed).permutation(len(text))))
    if data is None:
        half = len(text) // 2
        if not half:
            raise UsageError(f"{text.name}: is one sequence", "name other text to train on: --train-data D")
        held_out, text = text.rows(torch.arange(half, len(text))), text.rows(torch.arange(half))
    text, _ = text.first_targets(plan.limit)
    if data is not None:
        _refuse_reported(text.ids, workload.tokens.ids, text.name)
    if len(text) < 2:
        problem = f"{text.name}: one sequence to train on, which cannot be parted into a window and others"
        raise UsageError(problem, "name more text to train on: --train-data D, or a larger --limit or --train-limit")
    most = max(1, text.targets // 4)
    window = min(DEFAULT_WINDOW, most) if plan.window is None else plan.window
    looked_at, rest = text.first_targets(window)
    if rest is None or rest.targets < 2 * window:
        raise UsageError(
            f"{text.name}: {text.targets} training tokens are too few for a window of {window}",
            f"try: --window {most // 2 or 1}, or more --train-data",
        )
    return TrainingInputs(rest, looked_at, held_out)


def _refuse_reported(training: Tensor, reported: Tensor, name: str) -> None:
    """Refuse inputs to train on [N, ...] of which more than a few are among those of the report [M, ...].

    Raises:
        UsageError: one in ten is.
    """
    if training.shape[1:] != reported.shape[1:] or training.dtype != reported.dtype:
        return

    def key(row: Tensor) -> int:
        return hash(row.reshape(-1).view(torch.uint8).numpy().tobytes())

    known = set(map(key, reported))
    shared = sum(key(row) in known for row in training)
    if shared > _SHARED * len(training):
        raise UsageError(
            f"{name}: {shared} of {len(training)} inputs to train on are those of the report, too",
            "a corrector is judged by inputs that are new to it: name others with --train-data, or leave it out",
        )


def train_corrector(
    subject: Subject,
    damage: Sequence[FaultLaw] | FaultMap,
    plan: TrainingPlan,
    inputs: TrainingInputs,
    *,
    format: str = "native",
    protect: Chain = UNPROTECTED,
    progress: Callable[[], None] = lambda: None,
) -> TrainedCorrector:
    """Train a corrector on some damaged copies of a subject's model, and judge it by others.

    Args:
        subject: in the same state, bit for bit, when this returns or raises.
        damage: laws of faults that the device has not met yet (unseen damage), or the faults that it has (known
            damage), in the format that they were drawn in.
        plan: how.
        inputs: of `training_inputs`.
        format, protect: of the memory.
        progress: called after every fault map of a law.

    Raises:
        UsageError: no law, no maps, or faults that leave the model intact.
        FaultError: the faults are those of another memory.
        CorrectorError: the data does not suffice.
    """
    workload = subject.answering("train-corrector")
    method = plan.method_for(workload)
    setting: Setting = "known damage" if isinstance(damage, FaultMap) else "unseen damage"
    size = len(inputs.window) if isinstance(inputs.window, Dataset) else inputs.window.targets
    refuse_window(size, smallest_window(kind_of(method, setting)), method)
    if isinstance(damage, FaultMap) and isinstance(workload, LanguageWorkload):
        raise UsageError(
            "--replay: a language model has no corrector for known damage",
            "train one with --fault, and give it tokens of the device itself: campaign --corrector FILE --labelled N",
        )
    if isinstance(damage, FaultMap):
        format, faults = damage.format, [damage.fault]
        covered = {name: tensor for name, tensor in subject.tensors.items() if name in damage.layout}
        image = replace(subject, tensors=covered).memory(format, protect)
    else:
        faults = [law.spec for law in damage]
        highest = max((law.ber for law in damage if law.ber is not None), default=None)
        image = subject.memory(format, protect, highest if protect.needs_ber else None)
    try:
        experiment = Experiment.around(image, workload, inputs.training, inputs.window, inputs.held_out)
        card = Card(
            experiment.held_out.logits().shape[1],
            setting,
            subject.checkpoint_hash,
            tuple(faults),
            format,
            protect.text,
            plan.seed,
        )
        options = TrainingOptions(size, plan.perceptron)
        if isinstance(damage, FaultMap):
            return known_damage(method, experiment, damage, card, options)
        maps = {"training_maps": plan.maps, "report_maps": plan.report_maps}
        return unseen_damage(method, experiment, damage, card, options, **maps, progress=progress)
    finally:
        workload.load(subject.tensors)
