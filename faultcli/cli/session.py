"""What the commands that run a model have in common: from options to a checkpoint and a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultcli.cli.options import numbers

if TYPE_CHECKING:
    from faultcli.checkpoint import Checkpoint
    from faultcli.workload.evaluate import Workload


def open_model(model: str | None) -> Checkpoint:
    """Open the checkpoint; without a name, the embedded demo."""
    from faultcli.checkpoint import Checkpoint
    from faultcli.workload.demo import demo_checkpoint_path

    return Checkpoint.open(model if model is not None else demo_checkpoint_path())


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
    from faultcli.workload.evaluate import DEFAULT_BATCH_SIZE, build_workload

    return build_workload(
        checkpoint.state(),
        checkpoint.metadata,
        arch=arch,
        data=data,
        limit=limit,
        batch_size=DEFAULT_BATCH_SIZE if batch_size is None else batch_size,
        device=device,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
    )
