"""A workload from what a command line says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.base import BaseWorkload
from faultcli.workload.choice import ChoiceWorkload
from faultcli.workload.classifier import Workload
from faultcli.workload.data.choices import load_choices
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.tokens import load_tokens
from faultcli.workload.language import LanguageWorkload
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.loading import load_model
from faultcli.workload.score import ScoreWorkload, named_score


def pick_device(spec: str = "auto") -> torch.device:
    """Return the device that `spec` names: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if spec == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(spec)
    except RuntimeError as error:
        raise UsageError(f"unknown device {spec!r}", "--device takes auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {spec!r}", "--device takes auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {spec!r} here", "pass --device cpu, or auto")
    return device


@dataclass(frozen=True)
class WorkloadSpec:
    """What a model runs on, and how, as a command line says it.

    Attributes:
        data: --data, see `load_data` and `load_tokens`; None: the embedded digits, for the demo's architecture only.
        arch: --arch, see `resolve_architecture`.
        limit: --limit, the first so many inputs.
        batch_size: --batch-size; None: chosen by the size of inputs, or of a language model's logits.
        device: --device, see `pick_device`.
        mean: --mean, per channel, in place of the architecture's own.
        std: --std, likewise.
        answer: --answer, see `answer_picker`; for classifiers.
        score: --score, see `named_score`; instead of data.
    """

    data: str | None = None
    arch: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    answer: str | None = None
    score: str | None = None


def build_workload(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    spec: WorkloadSpec | None = None,
    *,
    directory: Path | None = None,
    is_directory: bool = False,
) -> BaseWorkload:
    """Put a workload together from what a command line says.

    Args:
        state: the checkpoint's tensors.
        metadata: the checkpoint's metadata; it may name a built-in architecture.
        spec: what the model runs on; None: the defaults.
        directory: where the checkpoint's files lie.
        is_directory: the checkpoint was named as a directory, which may then say what its architecture is.

    Raises:
        UsageError: a name or a number makes no sense.
        WorkloadError: checkpoint, architecture and data do not fit each other.
    """
    spec = spec or WorkloadSpec()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    architecture = resolve_architecture(spec.arch, shapes, metadata, directory, is_directory=is_directory)
    place = pick_device(spec.device)
    if spec.score is not None:
        given = {"--data": spec.data, "--limit": spec.limit, "--mean": spec.mean, "--std": spec.std}
        for option, value in (given | {"--answer": spec.answer}).items():
            if value is not None:
                raise UsageError(f"{option}: a --score looks at data of its own", f"leave {option} out")
        return ScoreWorkload(architecture, load_model(architecture, state), named_score(spec.score), device=place)
    data = spec.data
    if data is None:
        if architecture.data != "digits":
            remedy = f"pass --data, e.g. {architecture.data}, or a score of your own: --score package.module:function"
            raise UsageError(f"{architecture.name} needs data to run on", remedy)
        data = architecture.data
    if architecture.language is not None:
        if spec.answer is not None:
            raise UsageError("--answer: is for classifiers; of a language model the logits are taken", "leave it out")
        if spec.mean is not None or spec.std is not None:
            raise UsageError(f"{architecture.name} takes tokens, which have no mean", "leave out --mean and --std")
        questions = load_choices(data, architecture.language, spec.limit)
        if questions is not None:
            model = load_model(architecture, state)
            return ChoiceWorkload(architecture, model, questions, batch_size=spec.batch_size, device=place)
        tokens = load_tokens(data, architecture.language, spec.limit)
        return LanguageWorkload(
            architecture, load_model(architecture, state), tokens, batch_size=spec.batch_size, device=place
        )
    if architecture.no_classes is not None:
        raise WorkloadError(architecture.no_classes, "judge it by a score of your own: --score package.module:function")
    dataset = load_data(data, spec.limit, label_offset=architecture.label_offset, **architecture.wanted)
    if spec.mean is not None or spec.std is not None:
        if not dataset.images:
            kind = "integers such as tokens" if dataset.tokens else "floating-point inputs"
            raise UsageError(
                f"{dataset.name}: {kind} pass as they are, so they cannot be scaled or normalised",
                "store uint8 images, or leave out --mean and --std",
            )
        architecture = architecture.with_preprocess(
            architecture.preprocess.with_overrides(mean=spec.mean, std=spec.std)
        )
    model = load_model(architecture, state)
    return Workload(architecture, model, dataset, batch_size=spec.batch_size, device=place, answer=spec.answer)
