"""Train a corrector on some damaged copies of a model and measure it on others: the whole of `train-corrector`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import FaultMap
from faultcli.memory import MemoryImage
from faultcli.recover.base import Card, Corrector, CorrectorError
from faultcli.recover.damaged_logits import Answering, Copy, LabelledLogits, damaged_copies, one_copy
from faultcli.recover.methods import TrainingOptions, train_corrector
from faultcli.recover.training.assess import HeldOutMap, Level, assess, levels, measured
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.data.tokens import TokenDataset
from faultcli.workload.language import LanguageWorkload
from faultcli.workload.metrics import GoldenRun

_BY_HEART = 0.1  # of all inputs: how many more the model has right of those of the training
TrainingSet: TypeAlias = Dataset | TokenDataset

HELD_OUT_TRIALS = 1_000_000  # trials of the report start here: their faults are never those of the training


@dataclass(frozen=True)
class Experiment:
    """One model, three sets of inputs. The workloads share the model; it holds the memory's fault-free values.

    Attributes:
        image: the memory.
        training: labelled inputs to train on.
        window: inputs that the device sees, whose labels are not looked at; None: no method needs them.
        held_out: labelled inputs of the report, in neither of the others.
    """

    image: MemoryImage
    training: Answering
    window: Answering | None
    held_out: Answering

    def __post_init__(self) -> None:
        for name, values in self.image.values():
            self.training.load({name: values})

    @classmethod
    def around(
        cls,
        image: MemoryImage,
        workload: Answering,
        training: TrainingSet,
        window: TrainingSet,
        held_out: TrainingSet | None = None,
    ) -> Experiment:
        """Put other inputs around a workload's model; without `held_out`, its own are those of the report."""
        reported = workload if held_out is None else _beside(workload, held_out)
        return cls(image, _beside(workload, training), _beside(workload, window), reported)

    @property
    def looking(self) -> list[Answering]:
        """What a damaged copy runs on for the report."""
        return [self.held_out, *([self.window] if self.window is not None else [])]


def _beside(workload: Answering, inputs: TrainingSet) -> Answering:
    if isinstance(workload, LanguageWorkload):
        assert isinstance(inputs, TokenDataset)
        return workload.beside(inputs)
    assert isinstance(inputs, Dataset)
    return workload.beside(inputs)


def shuffled(dataset: Dataset, seed: int) -> Dataset:
    """Return the inputs in a random order that is fixed by the seed."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(dataset)))
    return dataset.rows(order)


def cut(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """Return the first `count` inputs and the others."""
    return dataset.first(count), dataset.rows(slice(count, None))


@dataclass(frozen=True)
class TrainedCorrector:
    """A trained corrector and what it did on held-out fault maps and held-out data."""

    corrector: Corrector
    levels: tuple[Level, ...]  # the healthy model first, called `none`, where laws were trained for
    inputs: int  # held out; of a language model, tokens
    clean_in_training: float | None = None  # accuracy of the healthy model on the inputs of the training

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said of it: the corrector's own, and whether the model knows the training inputs by heart."""
        seen, new = self.clean_in_training, self.levels[0].clean.top1 if self.levels else None
        if seen is None or new is None or seen - new <= _BY_HEART:
            return self.corrector.remarks
        by_heart = (
            f"the model has {100 * seen:.1f} % of the training inputs right, {100 * new:.1f} % of those of the report: "
            "what a corrector learns from inputs that the model knows by heart holds less for others; "
            "name inputs that are new to the model with --train-data"
        )
        return (*self.corrector.remarks, by_heart)


Progress = Callable[[], None]


def unseen_damage(
    method: str,
    experiment: Experiment,
    laws: Sequence[FaultLaw],
    card: Card,
    options: TrainingOptions,
    *,
    training_maps: int,
    report_maps: int,
    progress: Progress = lambda: None,
) -> TrainedCorrector:
    """Train on some fault maps of the laws and report on others.

    Args:
        method: a name of the table.
        experiment: model and data.
        laws: at least one.
        card: its seed is that of the faults.
        options: of the training.
        training_maps: per law.
        report_maps: per law.
        progress: called after every fault map.

    Raises:
        UsageError: no law, no maps, or a law that leaves the model intact.
        CorrectorError: the data does not suffice.
    """
    if min(training_maps, report_maps) < 1:
        problem = "a corrector is trained on 1 fault map per level or more, and judged on 1 other or more"
        raise UsageError(problem, "--maps 6 --report-maps 20")
    if not laws:
        raise UsageError("no fault to train for", "name one with --fault SPEC or --ber P")
    data = training_logits(experiment, laws, training_maps, card.seed, progress)
    corrector = train_corrector(method, data, card, options)
    found = held_out_levels([corrector], experiment, laws, report_maps, card.seed, progress)
    return TrainedCorrector(corrector, tuple(found[0]), len(experiment.held_out.labels), data.clean_accuracy)


def training_logits(
    experiment: Experiment, laws: Sequence[FaultLaw], maps: int, seed: int, progress: Progress = lambda: None
) -> LabelledLogits:
    """Return the training inputs' logits, clean and under `maps` fault maps per law: what every method trains on."""
    clean = experiment.training.logits()
    copies: list[Copy] = []
    for (copy,) in damaged_copies(experiment.image, laws, maps, [experiment.training], seed=seed):
        copies.append(copy)
        progress()
    return LabelledLogits(clean, experiment.training.labels, tuple(copies))


def held_out_levels(
    correctors: Sequence[Corrector],
    experiment: Experiment,
    laws: Sequence[FaultLaw],
    maps: int,
    seed: int,
    progress: Progress = lambda: None,
) -> list[list[Level]]:
    """Measure correctors, side by side on the same fault maps, none of which were trained on.

    Returns:
        Per corrector, one level per law, preceded by the healthy model (`none`).
    """
    clean = experiment.held_out.logits()
    golden = GoldenRun(clean)
    labels = experiment.held_out.labels
    tokens = isinstance(experiment.held_out, LanguageWorkload)
    outcome = measured(clean, labels, golden, tokens=tokens)
    healthy = tuple(Copy("none", 0, w.logits(), 0) for w in experiment.looking)
    maps_of: list[list[HeldOutMap]] = [[] for _ in correctors]

    def judge(copies: tuple[Copy, ...]) -> None:
        window = copies[1].logits if len(copies) > 1 else None
        for found, corrector in zip(maps_of, correctors, strict=True):
            copy = copies[0]
            found.append(assess(corrector, copy, window, labels, golden, tokens=tokens))

    if maps:
        judge(healthy)
        drawn = damaged_copies(experiment.image, laws, maps, experiment.looking, seed=seed, first_trial=HELD_OUT_TRIALS)
        for copies in drawn:
            judge(copies)
            progress()
    return [levels(found, outcome) for found in maps_of]


def known_damage(
    method: str, experiment: Experiment, faults: FaultMap, card: Card, options: TrainingOptions
) -> TrainedCorrector:
    """Train on the damaged device itself and report on it, on held-out data.

    Raises:
        UsageError: the fault map leaves the model intact.
        CorrectorError: the card does not say so, or the data does not suffice.
    """
    if card.setting != "known damage":
        raise CorrectorError("a corrector for known damage has to say so in its card")
    clean = experiment.training.logits()
    held_out = experiment.held_out.logits()
    workloads = [experiment.training, *experiment.looking]
    training, *looking = one_copy(experiment.image, faults, workloads, faults.fault, faults.trial)
    if not training.changed:
        raise UsageError("the fault map leaves the model intact, so there is nothing to correct", "replay another one")
    data = LabelledLogits(clean, experiment.training.labels, (training,))
    corrector = train_corrector(method, data, card, options)
    golden = GoldenRun(held_out)
    labels, tokens = experiment.held_out.labels, isinstance(experiment.held_out, LanguageWorkload)
    outcome = measured(held_out, labels, golden, tokens=tokens)
    window = looking[1].logits if len(looking) > 1 else None
    found = assess(corrector, looking[0], window, labels, golden, tokens=tokens)
    found_levels = tuple(levels([found], outcome))
    return TrainedCorrector(corrector, found_levels, len(experiment.held_out.labels), data.clean_accuracy)
