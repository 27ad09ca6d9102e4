"""What the commands that run a model have in common: from options to a checkpoint and a workload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from faultcli.cli.options import numbers

if TYPE_CHECKING:
    from faultcli.checkpoint import Checkpoint
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
) -> Workload:
    """Build the workload that the options ask for."""
    from faultcli.scaling import read_weights
    from faultcli.workload.evaluate import DEFAULT_BATCH_SIZE, build_workload

    read, _ = read_weights(checkpoint)
    return build_workload(
        {name: read(name) for name in checkpoint.tensors},
        checkpoint.metadata,
        arch=arch,
        data=data,
        limit=limit,
        batch_size=DEFAULT_BATCH_SIZE if batch_size is None else batch_size,
        device=device,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
    )


def load_unlabelled(spec: str | None, data: str | None) -> Dataset:
    """Load the inputs that recalibration and correctors look at; by default, the training split of the data."""
    from faultcli.errors import UsageError
    from faultcli.workload.data import load_data, training_split

    named = spec or training_split(data if data is not None else "digits")
    if named is None:
        raise UsageError(f"{data}: has no training split to look at", "name unlabelled inputs: --unlabelled D")
    return load_data(named)
