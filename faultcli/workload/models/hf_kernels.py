"""A quantised checkpoint as the library of its layout runs it, through transformers and offline: its kernels on the
same words, to be compared with decoded weights.

The words go there as tensors, so no other file of the directory is read than those that every run reads. The
configuration is `read_config`'s, and what says how weights are packed is put back.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faultcli.checkpoint.packed import Packed, configuration
from faultcli.errors import WorkloadError
from faultcli.workload.answers import first_answer
from faultcli.workload.models.architectures import IGNORED_SUFFIX
from faultcli.workload.models.hf_class import class_of, counted_labels
from faultcli.workload.models.hf_config import CONFIG, first_line, offline, quiet, read_config
from faultcli.workload.models.hf_tasks import AnyModel

_OF_THE_MAKING = {"meta", "backend", "tokenizer", "dataset"}  # of a quantization_config: says nothing of the words
_WITHOUT = "leave --kernel out: decoded weights need no library"


@dataclass(frozen=True)
class LibraryModel:
    """What a library made of a checkpoint. `layers`: the classes of the modules that compute with quantised weights."""

    module: nn.Module
    layers: tuple[str, ...]


def library_model(packed: Packed, device: torch.device) -> LibraryModel:
    """Build the model of a directory with the kernels of the library that its layout is of.

    RAM: besides what the library makes of them, the words once.

    Args:
        packed: the checkpoint; its config.json names the network and the layout.
        device: where it is to run.

    Raises:
        WorkloadError: transformers has no kernels for the layout, the library is missing or takes it on no such device,
            or it has no use for the tensors as they are.
    """
    path, directory = packed.checkpoint.path, packed.checkpoint.directory
    if packed.checkpoint.is_gguf:
        raise WorkloadError(f"{path}: is a GGUF file; the kernels of llama.cpp are not run", _WITHOUT)
    asked = configuration(directory)
    if "quant_method" not in asked:
        raise WorkloadError(
            f"{path}: no quantization_config with a quant_method says which library it is of",
            f"put the {CONFIG} that the library wrote beside it, or {_WITHOUT}",
        )
    config = read_config(directory)
    shapes = {name: info.shape for name, info in packed.infos.items()}
    name, task, _ = class_of(directory, config, shapes)
    if task is not None and task.mapping != "CAUSAL_LM":
        counted_labels(directory, name, config, shapes)
    config.quantization_config = {key: value for key, value in asked.items() if key not in _OF_THE_MAKING}
    words = {tensor: packed.checkpoint.read(tensor) for tensor in packed.checkpoint.tensors}
    try:
        with quiet(), offline(), _silent(), torch.random.fork_rng(devices=[]):
            model, info = _loaded(name, config, words, packed.dtype, device)
    except Exception as error:  # a library that is missing, too old, or made for a GPU: no common class
        raise WorkloadError(
            f"{path}: the library of {packed.layout.title} cannot load it: {first_line(error)}",
            f"install what is missing, if it says so, or {_WITHOUT}",
        ) from error
    _check(packed, info)
    model.requires_grad_(False).eval()
    return LibraryModel((AnyModel if task is None else task.wrap)(model).eval(), _layers(packed, model))


def _loaded(
    name: str, config: Any, words: dict[str, Tensor], dtype: torch.dtype | None, device: torch.device
) -> tuple[Any, Mapping[str, Any]]:
    import transformers

    model, info = getattr(transformers, name).from_pretrained(
        None,
        config=config,
        state_dict=words,
        dtype=dtype or "auto",
        device_map={"": str(device)},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are listed, and refused
    )
    return model, info


def _check(packed: Packed, info: Mapping[str, Any]) -> None:
    """Refuse a model with weights that are not those of the checkpoint."""
    missing = [key for key in info["missing_keys"] if not key.endswith(IGNORED_SUFFIX)]
    reshaped = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    for found, what in ((missing, "missing"), (reshaped, "of another shape")):
        if found:
            raise WorkloadError(
                f"{packed.checkpoint.path}: to the library of {packed.layout.title} {len(found)} tensors are {what},"
                f" among them {sorted(found)[0]}",
                f"take the release that wrote them, or {_WITHOUT}",
            )


def _layers(packed: Packed, model: nn.Module) -> tuple[str, ...]:
    base = f"{getattr(model, 'base_model_prefix', '')}."
    modules = {name.removeprefix(base): type(module).__name__ for name, module in model.named_modules()}
    owners = (weight.rpartition(".")[0].removeprefix(base) for weight in packed.weights)
    return tuple(sorted({modules[owner] for owner in owners if owner in modules}))


class SideBySide(nn.Module):
    """Answers as `other` does, and keeps by how much the logits differ from those of `own` on the same inputs.

    Attributes:
        largest: the largest absolute difference of two finite logits so far, padding included, in float32; None: none
            were compared.
    """

    def __init__(self, own: nn.Module, other: nn.Module, called: str) -> None:
        super().__init__()
        self._own, self._other, self._called = [own], other, called  # a list: whose module it is, it stays
        self.largest: float | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run both."""
        reference = first_answer(self._own[0](*inputs, **named))
        try:
            with _silent():
                output = self._other(*inputs, **named)
        except Exception as error:  # kernels refuse shapes, dtypes and devices in their own ways
            raise WorkloadError(f"{self._called} cannot run it: {first_line(error)}", _WITHOUT) from error
        answer = first_answer(output)
        differences = (answer.float() - reference.float()).abs()
        finite = differences[differences.isfinite()]
        if finite.numel():
            self.largest = max(self.largest or 0.0, float(finite.max()))
        return output


@contextmanager
def _silent() -> Iterator[None]:
    """Keep libraries from writing banners and bars between the lines of a result."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
