"""What the commands that run a model have in common: from options to a checkpoint and a workload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from faultcli.cli.console import note
from faultcli.cli.options import numbers

if TYPE_CHECKING:
    from faultcli.campaign.plan import Arm
    from faultcli.campaign.provenance import Provenance
    from faultcli.checkpoint import Checkpoint
    from faultcli.faults.memories import Rate
    from faultcli.recover.applied import Correct
    from faultcli.workload.base import BaseWorkload
    from faultcli.workload.data import Dataset
    from faultcli.workload.evaluate import Workload


def open_model(model: str | None) -> Checkpoint:
    """Open the checkpoint; without a name, the embedded demo."""
    from faultcli.checkpoint import Checkpoint
    from faultcli.workload.demo import demo_checkpoint_path

    return Checkpoint.open(model if model is not None else demo_checkpoint_path())


@contextmanager
def naming(checkpoint: Checkpoint) -> Iterator[None]:
    """Say of which checkpoint a tensor is that cannot be stored."""
    from faultcli.errors import FormatError
    from faultcli.inject import about_checkpoint

    try:
        yield
    except FormatError as error:
        raise about_checkpoint(error, checkpoint) from None


def make_workload(
    checkpoint: Checkpoint,
    *,
    arch: str | None,
    data: str | None,
    limit: int | None,
    batch_size: int | None,
    device: str,
    mean: str | None,
    std: str | None,
) -> BaseWorkload:
    """Build the workload that the options ask for."""
    from faultcli.scaling import read_weights
    from faultcli.workload.evaluate import build_workload

    read, _ = read_weights(checkpoint)
    return build_workload(
        {name: read(name) for name in checkpoint.tensors},
        checkpoint.metadata,
        arch=arch,
        data=data,
        limit=limit,
        batch_size=batch_size,
        device=device,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        directory=checkpoint.directory,
        is_directory=checkpoint.kind == "directory",
    )


def provenance_of(
    workload: BaseWorkload,
    model: str,
    checkpoint: Checkpoint,
    names: Sequence[str],
    command: str,
    rates: Sequence[Rate],
) -> Provenance:
    """Say where a campaign's numbers will come from."""
    import torch

    from faultcli.campaign.provenance import Provenance, installed_versions
    from faultcli.report.document import rates_document

    return Provenance(
        model=model,
        checkpoint_sha256=checkpoint.sha256(),
        architecture=workload.architecture.name,
        data=workload.data_name,
        data_sha256=workload.data_sha256(),
        device=str(workload.device),
        batch_size=workload.batch_size,
        threads=torch.get_num_threads(),
        command=command,
        versions=installed_versions(),
        tensors={name: list(checkpoint.tensors[name].shape) for name in names},
        memories=rates_document(rates),
    )


def classifier(workload: BaseWorkload, option: str) -> Workload:
    """Return the workload as one that answers with one of K classes, which `option` needs."""
    from faultcli.errors import UsageError
    from faultcli.workload.evaluate import Workload

    if isinstance(workload, Workload):
        return workload
    raise UsageError(
        f"{option} works on classifiers, whose answer is one of K classes; {workload.architecture.name} is a language"
        " model",
        "leave it out; for language models there are protections of the memory, --protect",
    )


def note_what_runs(
    model: str | None, checkpoint: Checkpoint, workload: BaseWorkload, *, scaled: bool, quiet: bool
) -> None:
    """Say what a user may not expect of the model."""
    if scaled:
        note(f"{checkpoint.path}: is scaled; its memory holds c·w where --protect says nothing else", quiet=quiet)
    if model is None:
        note(f"no MODEL named: the embedded demo, {workload.describe()}", quiet=quiet)


def unlabelled_inputs(
    arms: Sequence[Arm], correct: Correct | None, spec: str | None, data: str | None, workload: BaseWorkload
) -> Dataset | None:
    """Load what recalibrations and correctors of a campaign look at; None if none does."""
    if any(arm.looks for arm in arms):
        classifier(workload, "--recalibrate" if correct is None else "--corrector")
    if any(arm.recalibrate or (arm.correct and correct and correct.corrector.needs_window) for arm in arms):
        return load_unlabelled(spec, data, workload)
    return None


def load_unlabelled(spec: str | None, data: str | None, workload: BaseWorkload) -> Dataset:
    """Load the inputs that recalibration and correctors look at; by default, the training split of the data."""
    from faultcli.errors import UsageError
    from faultcli.workload.data import load_data, training_split

    named = spec or training_split(data if data is not None else "digits")
    if named is None:
        raise UsageError(f"{data}: has no training split to look at", "name unlabelled inputs: --unlabelled D")
    return load_data(named, geometry=workload.architecture.geometry)
