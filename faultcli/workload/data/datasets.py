"""Data sets by the name that the user gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from faultcli.errors import WorkloadError, unknown_name
from faultcli.foreign import whole_number
from faultcli.workload.data.images import read_images
from faultcli.workload.data.labelled import Dataset, check_limit, labelled, make_dataset
from faultcli.workload.data.labels import in_classes_of
from faultcli.workload.data.readers import (
    ARRAY_SUFFIXES,
    Arrays,
    read_arrays,
    read_cifar10,
    read_digits,
    read_mnist,
)
from faultcli.workload.data.texts import TEXT_SUFFIXES, check_tokens, read_texts
from faultcli.workload.factory import call_factory, is_factory
from faultcli.workload.models.architectures import Classes, Texts
from faultcli.workload.preprocess import Geometry


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
    check_limit(limit, spec)
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
        " faultcli.extend.Dataset",
    )
