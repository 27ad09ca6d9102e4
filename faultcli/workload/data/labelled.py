"""Labelled inputs: what a data set is, and how arrays become one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.workload.data.readers import INPUTS, LABELS
from faultcli.workload.preprocess import Layout, channels_first

_IMAGE_CHANNELS = (1, 3)
_EIGHT_BITS = (  # torch stores them, and computes nothing in them
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
_PIXELS_OR_READY = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (  # embeddings take int32 and int64; the others become int64
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)
Array: TypeAlias = Tensor | NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs with labels, as stored: not yet preprocessed.

    Make one with `make_dataset`, which finds the layout and checks everything that can be checked without a network.
    """

    inputs: Tensor  # [N, ...]: uint8 images, int32 or int64 such as tokens, or floats that are preprocessed already
    labels: Tensor  # [N] int64, none negative
    name: str
    layout: Layout  # how the dimensions of `inputs` read
    class_names: tuple[str, ...] | None = None
    input_name: str = INPUTS  # what `inputs` are called: passed by name to a network that has such a parameter
    others: Mapping[str, Tensor] = field(default_factory=dict)  # [N, ...], further inputs, passed by name
    widths: Mapping[str, Tensor] = field(default_factory=dict)  # int64 [N], of padded inputs: columns that count
    notes: tuple[str, ...] = ()  # what was found when they were read that a user may not expect, a line each

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> bool:
        """Whether the inputs are images as stored, which preprocessing is for."""
        return self.inputs.dtype == torch.uint8

    @property
    def tokens(self) -> bool:
        """Whether the inputs are integers that pass as they are."""
        return not self.images and not self.inputs.is_floating_point()

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The shape of one input as a network gets it, images channels first."""
        return tuple(channels_first(self.inputs[:1], self.layout).shape[1:])

    def first(self, limit: int | None) -> Dataset:
        """Return the first `limit` inputs, all of them where there are fewer or `limit` is None.

        Raises:
            WorkloadError: `limit` is below 1.
        """
        check_limit(limit, self.name)
        return self if limit is None else self.rows(slice(limit))

    def rows(self, chosen: slice | Tensor) -> Dataset:
        """Return some inputs: a slice of them, or those of these positions, in this order."""
        return replace(
            self,
            inputs=self.inputs[chosen],
            labels=self.labels[chosen],
            others={name: tensor[chosen] for name, tensor in self.others.items()},
            widths={name: tensor[chosen] for name, tensor in self.widths.items()},
        )

    def sha256(self) -> str:
        """Return the hex SHA-256 of dtypes, layout, shapes, inputs and labels; of the names, those of further inputs
        count alone."""
        digest = hashlib.sha256(f"{self.inputs.dtype} {self.layout} {list(self.inputs.shape)}\n".encode())
        for tensor in (self.inputs, self.labels):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        for kind, tensors in (("input", self.others), ("widths", self.widths)):
            for name, tensor in tensors.items():
                digest.update(f"{kind} {name!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def check_limit(limit: int | None, name: str) -> None:
    """Refuse a limit below 1 on the inputs of a data set of this name; WorkloadError."""
    if limit is not None and limit < 1:
        raise WorkloadError(f"a limit of {limit} leaves no inputs of {name}", "--limit takes 1 or more")


def make_dataset(
    inputs: Array | Mapping[str, Array],
    labels: Array,
    name: str,
    class_names: tuple[str, ...] | None = None,
    layout: Layout | None = None,
) -> Dataset:
    """Check arrays and make a data set of them.

    Layout, where it is not given: three dimensions are NHW. Of four-dimensional uint8 images, NHWC if the last
    dimension is 1 or 3, else NCHW if the second is. Floating-point inputs of four dimensions are always NCHW, because
    they are preprocessed; those of two or of five and more dimensions, and all other integers, are `other` and pass as
    they are.

    Args:
        inputs: one array, or several by the names of the network's parameters, of which only the first may be images.
        labels: one integer class per input.
        name: what the data set is called.
        class_names: what the classes are called.
        layout: of the (first) inputs.

    Raises:
        WorkloadError: no inputs, counts that differ, inputs that are no numbers, labels that are no integers or are
            negative, or uint8 images whose layout cannot be told.
    """
    if isinstance(inputs, Mapping):
        first, *more = inputs
        made = make_dataset(_plain_input(name, first, inputs[first]), labels, name, class_names, layout)
        others = {other: _further_input(name, other, inputs[other], len(made)) for other in more}
        return replace(made, input_name=first, others=others)
    inputs, labels = plain_tensor(name, "inputs", inputs), plain_tensor(name, "labels", labels)
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise WorkloadError(
            f"{name}: labels are {labels.dtype} of shape {list(labels.shape)}", "one integer class per input is needed"
        )
    if inputs.dtype in _EIGHT_BITS:
        inputs = inputs.float()
    if inputs.dim() < 2 or inputs.dtype not in (*_PIXELS_OR_READY, *_WHOLE):
        raise WorkloadError(
            f"{name}: inputs are {inputs.dtype} of shape {list(inputs.shape)}",
            "uint8 images, other integers such as tokens, or floating-point values that are preprocessed already, are"
            " needed, [N, ...]",
        )
    if inputs.dtype in _WHOLE:
        inputs = _embeddable(name, "input", inputs)
    if len(inputs) != len(labels):
        raise WorkloadError(f"{name}: {len(inputs)} inputs but {len(labels)} labels", "store one label for every input")
    if not inputs.numel():
        raise WorkloadError(
            f"{name}: there are no inputs", "store at least one input with its label, or pass other --data"
        )
    labels = whole_numbers(name, "label", labels)
    if int(labels.min()) < 0:
        raise WorkloadError(f"{name}: label {int(labels.min())} is negative", "classes count from 0")
    if layout is not None and layout not in get_args(Layout):
        raise WorkloadError(
            f"{name}: layout {layout!r} is none of {', '.join(get_args(Layout))}",
            "leave the layout out, or name one of them",
        )
    if layout is not None and layout != "other" and inputs.dim() != len(layout):
        raise WorkloadError(
            f"{name}: inputs of shape {list(inputs.shape)} cannot be {layout}",
            f"{layout} has {len(layout)} dimensions: name the layout that the inputs have, or other",
        )
    return Dataset(inputs, labels, name, layout or _layout(name, inputs), class_names)


def plain_tensor(name: str, role: str, values: Tensor | NDArray[Any]) -> Tensor:
    """Return an array as a tensor on the CPU, in this machine's byte order. WorkloadError if it holds no numbers."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        native = np.require(values, dtype=values.dtype.newbyteorder("="), requirements=["C", "W"])
        return torch.from_numpy(native)
    except TypeError as error:
        raise WorkloadError(
            f"{name}: {role} are {values.dtype}, which is no plain number type",
            "store plain integers or floating-point values",
        ) from error


def whole_numbers(name: str, what: str, values: Tensor) -> Tensor:
    """Return integers of any kind as int64. WorkloadError if one does not fit (torch wraps it)."""
    converted = values.to(torch.int64)
    if values.dtype == torch.uint64 and bool((converted < 0).any()):
        raise WorkloadError(f"{name}: a {what} is 2^63 or more", "classes and tokens count from 0")
    return converted


def _embeddable(name: str, what: str, values: Tensor) -> Tensor:
    """Return integers as embeddings take them: int32 and int64 as they are, others as int64."""
    return values if values.dtype in (torch.int32, torch.int64) else whole_numbers(name, what, values)


def _plain_input(name: str, role: str, values: Array) -> Tensor:
    """Return the first of several inputs; uint8 that can be no images are tokens."""
    tensor = plain_tensor(name, role, values)
    tokens = tensor.dtype == torch.uint8 and tensor.dim() < 3
    return _embeddable(name, role, tensor) if tokens else tensor


def _further_input(name: str, role: str, values: Array, count: int) -> Tensor:
    """Return one of the further inputs: integers as embeddings take them, bool and floating point as they are."""
    tensor = plain_tensor(name, role, values)
    if tensor.dtype in _EIGHT_BITS:
        tensor = tensor.float()
    if not tensor.dim() or len(tensor) != count:
        raise WorkloadError(
            f"{name}: {role} is of shape {list(tensor.shape)}, and there are {count} labels",
            "store a row for every input in each array",
        )
    if tensor.is_complex():
        raise WorkloadError(f"{name}: {role} is {tensor.dtype}", "store real numbers")
    return tensor if tensor.is_floating_point() or tensor.dtype == torch.bool else _embeddable(name, role, tensor)


def _layout(name: str, inputs: Tensor) -> Layout:
    if inputs.dtype in _WHOLE:
        return "other"
    if inputs.dim() == 3:
        return "NHW"
    if inputs.is_floating_point():
        return "NCHW" if inputs.dim() == 4 else "other"
    if inputs.dim() == 4 and inputs.shape[3] in _IMAGE_CHANNELS:
        return "NHWC"
    if inputs.dim() == 4 and inputs.shape[1] in _IMAGE_CHANNELS:
        return "NCHW"
    raise WorkloadError(
        f"{name}: cannot tell the channels of uint8 images of shape {list(inputs.shape)}",
        "store them as [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels",
    )


def labelled(item: object) -> tuple[Array | Mapping[str, Array], Array] | None:
    """Return inputs and labels of what somebody's own code made: a pair of them, the inputs perhaps by name, or arrays
    by name of which one is `labels` or `label`. None if it is neither."""
    if isinstance(item, Mapping):
        key = next((key for key in LABELS if key in item), None)
        inputs: object = {name: value for name, value in item.items() if name != key}
        labels = None if key is None else item[key]
    elif isinstance(item, tuple | list) and len(item) == 2:
        inputs, labels = item
    else:
        return None
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    if not parts or not all(isinstance(part, Tensor | np.ndarray) for part in (*parts, labels)):
        return None
    return (dict(inputs) if isinstance(inputs, Mapping) else inputs), labels  # type: ignore[return-value]
