"""Labelled inputs: what a data set is, and how one is found by the name the user gives."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import WorkloadError, unknown_name
from faultcli.foreign import whole_number
from faultcli.workload.data.images import read_images
from faultcli.workload.data.labels import in_classes_of
from faultcli.workload.data.readers import (
    ARRAY_SUFFIXES,
    INPUTS,
    LABELS,
    Arrays,
    read_arrays,
    read_cifar10,
    read_digits,
    read_mnist,
)
from faultcli.workload.data.texts import TEXT_SUFFIXES, check_tokens, read_texts
from faultcli.workload.factory import call_factory, is_factory
from faultcli.workload.models.architectures import Classes, Texts
from faultcli.workload.preprocess import Geometry, Layout, channels_first

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
        if limit is None:
            return self
        if limit < 1:
            raise WorkloadError(f"a limit of {limit} leaves no inputs of {self.name}", "--limit takes 1 or more")
        return self.rows(slice(limit))

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


def load_data(
    spec: str,
    limit: int | None = None,
    *,
    geometry: Geometry | None = None,
    label_offset: int = 0,
    classes: Classes | None = None,
    takes: Sequence[str] = (),
    texts: Texts | None = None,
) -> Dataset:
    """Load the data set that `spec` names.

    `digits`          the embedded handwritten digits, 8×8; the 500 that the demo was not trained on
    `mnist:DIR`       the IDX files of MNIST or a data set like it, plain or gzipped; t10k
    `cifar10:DIR`     the binary version of CIFAR-10, or one npz per split; the test images
    `images:DIR`      a folder of image files per class
    `FILE.npz`, `FILE.safetensors`   arrays `labels`, and `inputs`, `images` or others that the network takes
    `FILE.jsonl`, `.csv`, `.tsv`     texts and their labels, for the tokenizer in the model's directory
    `package.module:factory`         returns a `Dataset`, a pair (inputs, labels) or arrays by name, `labels` among them

    The first three take `,split=train` for the images that were trained on, `images:DIR` takes `,classes=FILE.csv` for
    the folders' class indexes, and all but a factory `,offset=N`, which is added to the labels.

    Args:
        spec: what the user passed as --data.
        limit: the first so many inputs.
        geometry: how image files get the size that the network takes.
        label_offset: the network's class for label 0, unless `spec` says another.
        classes: the network's classes, which folders may be named like; None: labels are what the data say.
        takes: the names of the network's inputs, as the parameters of its `forward`; arrays of these names are read.
        texts: what is known of the texts that the network takes; None: it takes none.

    Raises:
        UsageError: nothing known is named.
        WorkloadError: files are missing, damaged or do not fit each other, or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise WorkloadError(f"a limit of {limit} leaves no inputs of {spec}", "--limit takes 1 or more")
    source, options = _options(spec)
    dataset = _load(spec, source, options, _Network(geometry, takes, texts), limit).first(limit)
    if classes is not None and source.startswith("images:") and not options.keys() & {"classes", "offset"}:
        return _in_classes_of(dataset, classes, label_offset)
    if texts is not None:
        tokens = {dataset.input_name: dataset.inputs, **dataset.others}
        dataset = replace(dataset, notes=(*dataset.notes, *check_tokens(dataset.name, tokens, texts)))
    offset = _whole(spec, options["offset"]) if "offset" in options else label_offset
    if not offset:
        return dataset
    labels = dataset.labels + offset
    if int(labels.min()) < 0:
        raise WorkloadError(f"{spec}: an offset of {offset} makes label {int(labels.min())}", "classes count from 0")
    return replace(dataset, labels=labels, class_names=None)


def _in_classes_of(dataset: Dataset, network: Classes, offset: int) -> Dataset:
    """Return a folder of images per class with the labels of a network."""
    found = in_classes_of(dataset.name, dataset.class_names or (), network, offset)
    notes = dataset.notes if found.note is None else (*dataset.notes, found.note)
    labels = torch.tensor(found.numbers)[dataset.labels]
    return replace(dataset, labels=labels, class_names=found.names, notes=notes)


def training_split(spec: str) -> str | None:
    """Return the spec of the training inputs of a data set known by name; None where that cannot be told."""
    kind = spec.partition(":")[0].partition(",")[0]
    known = kind in ("digits", "mnist", "cifar10") and "split=" not in spec
    return f"{spec},split=train" if known else None


@dataclass(frozen=True)
class _Network:
    """What is known of the network that the inputs are for; see `load_data`."""

    geometry: Geometry | None
    takes: Sequence[str]
    texts: Texts | None


def _load(spec: str, source: str, options: dict[str, str], network: _Network, limit: int | None) -> Dataset:
    kind, colon, place = source.partition(":")
    split = options.get("split", "test")
    if "split" in options and kind not in ("digits", "mnist", "cifar10"):
        raise WorkloadError(f"{spec}: only digits, mnist:DIR and cifar10:DIR have splits", "leave out ,split=")
    empty = [option for option, value in options.items() if not value]
    if empty:
        raise WorkloadError(f"{spec}: ,{empty[0]}= names nothing", f"data sets take {', '.join(_OPTIONS.values())}")
    if "classes" in options and kind != "images":
        raise WorkloadError(f"{spec}: only images:DIR takes a file of classes", "leave out ,classes=")
    if source == "digits":
        return _from_arrays(read_digits(split), spec)
    if colon and kind in _DIRECTORIES:
        if not place:  # what an unset variable leaves; as a path, it would be the current directory
            raise WorkloadError(f"{spec}: names no directory", f"pass --data {kind}:DIR, or {kind}:. for this one")
        if not Path(place).is_dir():
            raise WorkloadError(f"{spec}: there is no directory {place!r}", f"pass --data {kind}:DIR")
        if kind == "images":
            classes = Path(options["classes"]) if "classes" in options else None
            folders = read_images(Path(place), network.geometry, limit, classes)
            return _from_arrays(folders, source)
        read = {"mnist": read_mnist, "cifar10": read_cifar10}[kind]
        return _from_arrays(read(Path(place), split, limit), spec)
    if source.endswith(ARRAY_SUFFIXES):
        return _from_arrays(read_arrays(Path(source), limit, network.takes), source)
    if source.endswith(TEXT_SUFFIXES):
        return _from_arrays(read_texts(Path(source), network.texts, network.takes, limit), source)
    if is_factory(source):
        return _from_factory(source)
    raise unknown_name("data set", spec, KNOWN_DATA)


def _from_arrays(arrays: Arrays, name: str) -> Dataset:
    inputs = {arrays.input_name: arrays.inputs, **arrays.others}
    made = make_dataset(inputs, arrays.labels, name, arrays.class_names, arrays.layout)
    return replace(made, notes=arrays.notes, widths=arrays.widths)


def _options(spec: str) -> tuple[str, dict[str, str]]:
    """Part `SOURCE[,KEY=VALUE]...` into the source and its options; a directory may have commas in its name."""
    source, options = spec, dict[str, str]()
    while match := re.fullmatch(r"(.*),([A-Za-z_]+)=([^,]*)", source, flags=re.DOTALL):
        source, option, value = match.groups()
        if option not in _OPTIONS:
            raise WorkloadError(f"{spec}: unknown option {option!r}", f"data sets take {', '.join(_OPTIONS.values())}")
        options[option] = value
    if options.get("split", "test") not in ("test", "train"):
        raise WorkloadError(f"{spec}: unknown split {options['split']!r}", "the splits are test and train")
    return source, options


def _whole(spec: str, text: str) -> int:
    number = whole_number(text)
    if number is None or abs(number) > _FARTHEST_OFFSET:
        raise WorkloadError(f"{spec}: an offset of {text!r} is no whole number that moves classes", "e.g. offset=1")
    return number


_FARTHEST_OFFSET = 1 << 31  # no network has as many classes
_OPTIONS = {"split": "split=test or split=train", "classes": "classes=FILE.csv", "offset": "offset=N"}
_DIRECTORIES = ("mnist", "cifar10", "images")
KNOWN_DATA = (
    *("digits", "mnist:DIR", "cifar10:DIR", "images:DIR"),
    *("FILE.npz", "FILE.safetensors", "FILE.jsonl", "FILE.csv", "FILE.tsv", "package.module:factory"),
)


def _from_factory(spec: str) -> Dataset:
    made = call_factory("data", spec)
    if isinstance(made, Dataset):
        checked = make_dataset(made.inputs, made.labels, made.name, made.class_names, made.layout)
        return replace(made, inputs=checked.inputs, labels=checked.labels, layout=checked.layout)
    pair = labelled(made)
    if pair is not None:
        return make_dataset(*pair, name=spec)
    raise WorkloadError(
        f"data {spec!r}: the factory returned a {type(made).__name__}",
        "return a pair (inputs, labels) of tensors or arrays, arrays by name with labels among them, or a"
        " faultcli.workload.data.datasets.Dataset",
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
