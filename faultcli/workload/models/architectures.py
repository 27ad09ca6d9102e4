"""What an architecture is, the table of those that are built in, and how one is recognised by its tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.networks.alexnet import AlexNet
from faultcli.workload.models.networks.densenet import DenseNet
from faultcli.workload.models.networks.resnet import Bottleneck, CifarResNet, ProjectedBlock, ResNet
from faultcli.workload.models.networks.small import DigitsCnn, LeNet, MnistCnn
from faultcli.workload.models.networks.squeezenet import SqueezeNet
from faultcli.workload.models.prefixes import fit
from faultcli.workload.preprocess import Geometry, Preprocess

METADATA_KEY = "faultcli.arch"

# Batch norm counts its training batches in a scalar that inference never reads.
IGNORED_SUFFIX = "num_batches_tracked"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Language:
    """What is known of a language model's inputs."""

    vocabulary: int  # token ids count from 0 to this, exclusive
    context: int | None = None  # tokens that the model can look at; None: not known
    tokenizer: Path | None = None  # the directory that may hold its tokenizer


@dataclass(frozen=True)
class Classes:
    """What is known of the classes that a classifier answers with."""

    number: int | None = None  # None: known only from the first logits
    names: tuple[str, ...] = ()  # from index 0 on; empty: not known


@dataclass(frozen=True)
class Texts:
    """What is known of a text classifier's inputs."""

    vocabulary: int | None = None  # token ids count from 0 to this, exclusive; None: not known
    longest: int | None = None  # tokens that the model can look at; None: not known
    padding: int | None = None  # the token that the model takes for padding; None: it knows none
    tokenizer: Path | None = None  # the directory that may hold its tokenizer
    classes: Mapping[str, int] = field(default_factory=dict)  # by name


class Wanted(TypedDict):
    """What reading data for a network depends on, as `load_data` takes it."""

    geometry: Geometry | None
    takes: Sequence[str]
    texts: Texts | None
    classes: Classes


@dataclass(frozen=True)
class Architecture:
    """A network without its weights, and what is known of its inputs."""

    name: str  # as in the table, or as it was asked for
    build: Callable[..., nn.Module]  # a new module, float32; its initial weights do not matter
    older: Callable[..., nn.Module] | None = None  # as `build`, with the tensor names of older checkpoints
    head: str | None = None  # the layer that has a row per class, where `build` takes num_classes; None: it does not
    tensors: int | None = None  # how many it has that count, so that only what may fit is built; None: not known
    load: Callable[[Mapping[str, Tensor]], nn.Module] | None = None  # makes and fills one; None: `build`, then copy
    preprocess: Preprocess = field(default_factory=Preprocess)
    geometry: Geometry | None = None  # how image files get the size the network takes; None: they have to have it
    label_offset: int = 0  # the class that the network has for label 0; 1 where its class 0 is the background
    language: Language | None = None  # None: a classifier
    texts: Texts | None = None  # of a classifier of texts; None: it takes other inputs
    takes: tuple[str, ...] = ()  # names of its inputs, the parameters of `forward`; inputs of these are passed by name
    no_classes: str | None = None  # why its answer is none of K classes, and only a score judges it
    batch: int | None = None  # inputs per forward pass, where the network takes no other number
    input_shape: tuple[int, ...] | None = None  # of one input, channels first; None: not known
    any_size: bool = False  # whether images of another height and width may fit, too
    num_classes: int | None = None  # None: known only from the first logits
    class_names: tuple[str, ...] = ()  # of all classes, from index 0 on; empty: not known
    data: str = "FILE.npz"  # the --data that fits it, for messages
    description: str = ""  # one line
    source: str = ""  # who defined it, and whose tensor names it has
    notes: tuple[str, ...] = ()  # what was found when it was opened that a user may not expect, a line each

    @property
    def wanted(self) -> Wanted:
        """What reading data for the network depends on."""
        classes = Classes(self.num_classes, self.class_names)
        return {"geometry": self.geometry, "takes": self.takes, "texts": self.texts, "classes": classes}

    def with_preprocess(self, preprocess: Preprocess) -> Architecture:
        """Return a copy that prepares its inputs differently."""
        return replace(self, preprocess=preprocess)

    def with_classes(self, classes: int) -> Architecture:
        """Return a copy for another number of classes, and so for other data: arrays of images may have another size,
        too, where image files are resized."""
        if classes == self.num_classes:
            return self
        resized = self.geometry is not None
        return replace(
            self,
            name=f"{self.name} ({classes} class{'' if classes == 1 else 'es'})",
            build=partial(self.build, num_classes=classes),
            num_classes=classes,
            input_shape=None if resized else self.input_shape,
            data=self.data if resized else "FILE.npz",
        )


def parameters_of(model: nn.Module) -> tuple[str, ...] | None:
    """Return the names of the inputs that a module's `forward` takes, in their order; None where it takes any name."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of compiled functions there is no signature
        return ()
    named = tuple(one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))
    return None if not named and any(one.kind is one.VAR_KEYWORD for one in parameters) else named


# What the processors and tokenizers of transformers make, in files for a network that takes any name.
PROCESSED = ("input_ids", "attention_mask", "token_type_ids", "input_values", "input_features", "pixel_values")


_IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _cifar_resnet(depth: int) -> Architecture:
    return Architecture(
        name=f"cifar-resnet{depth}",
        build=partial(CifarResNet, depth),
        head="linear",
        tensors=5 * depth - 3,
        preprocess=_IMAGENET,
        input_shape=(3, 32, 32),
        num_classes=10,
        data="cifar10:DIR",
        description=f"residual network of {depth} layers for CIFAR-10, shortcuts of option A",
        source="He et al., CVPR 2016, section 4.2; keys as akamaster/pytorch_resnet_cifar10",
    )


def _imagenet(
    name: str, build: Callable[..., nn.Module], head: str, tensors: int, description: str, source: str
) -> Architecture:
    return Architecture(
        name=name,
        build=build,
        head=head,
        tensors=tensors,
        preprocess=_IMAGENET,
        geometry=Geometry((224, 224), resize=256),
        input_shape=(3, 224, 224),
        num_classes=1000,
        data="images:DIR",
        description=f"{description} for ImageNet",
        source=f"{source}; keys as torchvision",
    )


def _resnet(
    depth: int, tensors: int, block: type[ProjectedBlock] | type[Bottleneck], blocks: Sequence[int]
) -> Architecture:
    build = partial(ResNet, block, blocks)
    source = "He et al., CVPR 2016, table 1"
    return _imagenet(f"resnet{depth}", build, "fc", tensors, f"residual network of {depth} layers", source)


def _densenet(depth: int, tensors: int, layers: Sequence[int], growth: int = 32) -> Architecture:
    build = partial(DenseNet, layers, growth)
    description, source = f"densely connected network of {depth} layers", "Huang et al., CVPR 2017, table 1"
    made = _imagenet(f"densenet{depth}", build, "classifier", tensors, description, source)
    return replace(made, older=partial(build, dotted=True))


_BUILT_IN = (
    Architecture(
        name="digits-cnn",
        build=DigitsCnn,
        head="fc2",
        tensors=8,
        preprocess=Preprocess(scale=1 / 16),
        input_shape=(1, 8, 8),
        num_classes=10,
        data="digits",
        description="the embedded demo: 2 convolutions and 2 dense layers on 8×8 digits",
        source="faultcli, examples/train_digits.py",
    ),
    Architecture(
        name="mnist-cnn",
        build=MnistCnn,
        head="fc2",
        tensors=8,
        input_shape=(1, 28, 28),
        num_classes=10,
        data="mnist:DIR",
        description="2 convolutions and 2 dense layers on MNIST, the kind that the EDMN paper corrects",
        source="faultcli, examples/train_mnist.py",
    ),
    Architecture(
        name="lenet",
        build=LeNet,
        head="fc2",
        tensors=8,
        input_shape=(1, 28, 28),
        num_classes=10,
        data="mnist:DIR",
        description="LeNet as in Caffe's MNIST example, no activation after the convolutions",
        source="LeCun et al., 1998; keys as BruceDai/test-data models/lenet_nchw",
    ),
    *(_cifar_resnet(depth) for depth in (20, 32, 44, 56)),
    _imagenet("squeezenet1_1", SqueezeNet, "classifier.1", 52, "SqueezeNet 1.1", "Iandola et al., arXiv 1602.07360"),
    _imagenet("alexnet", AlexNet, "classifier.6", 16, "AlexNet in one column", "Krizhevsky, arXiv 1404.5997"),
    _resnet(18, 102, ProjectedBlock, (2, 2, 2, 2)),
    _resnet(34, 182, ProjectedBlock, (3, 4, 6, 3)),
    _resnet(50, 267, Bottleneck, (3, 4, 6, 3)),
    _resnet(101, 522, Bottleneck, (3, 4, 23, 3)),
    _resnet(152, 777, Bottleneck, (3, 8, 36, 3)),
    _densenet(121, 606, (6, 12, 24, 16)),
    _densenet(161, 806, (6, 12, 36, 24), growth=48),
    _densenet(169, 846, (6, 12, 32, 32)),
    _densenet(201, 1006, (6, 12, 48, 32)),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _BUILT_IN}


def recognise(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str], spellings: Sequence[str]
) -> Architecture:
    """Return the built-in architecture that the metadata names, else the one that has exactly these tensors, with as
    many classes as the checkpoint has: under whatever all names begin with, and with at most a second copy beside them
    (`prefixes.fit`).

    Args:
        shapes: the checkpoint's tensors, name to shape.
        metadata: the checkpoint's metadata. Nothing that it names is ever imported.
        spellings: what --arch takes, for the message.

    Raises:
        WorkloadError: neither says which it is.
    """
    named = metadata.get(METADATA_KEY)
    if named in ARCHITECTURES:
        return fitted(ARCHITECTURES[named], shapes)
    own = _that_count(shapes)
    for architecture in _candidates(own):
        fitting = _fitting(architecture, own)
        if fitting is not None:
            return fitting
    for architecture in ARCHITECTURES.values():
        if architecture.tensors is None or architecture.tensors <= len(own):
            names = fit(own, _shapes(architecture.build)).names
            fitting = _fitting(architecture, {name: own[key] for key, name in names.items()})
            if fitting is not None:
                return fitting
    raise _not_recognised(own, named, f"pass --arch: {', '.join(spellings)}, or a built-in of faultcli inspect --archs")


def fitted(architecture: Architecture, shapes: Mapping[str, Sequence[int]]) -> Architecture:
    """Return an architecture with the checkpoint's number of classes and names of tensors; as it is, where it does not
    fit the checkpoint."""
    return _fitting(architecture, _that_count(shapes)) or architecture


def _that_count(shapes: Mapping[str, Sequence[int]]) -> Shapes:
    return {name: tuple(shape) for name, shape in shapes.items() if not name.endswith(IGNORED_SUFFIX)}


def _candidates(own: Shapes) -> list[Architecture]:
    """Return the built-ins with as many tensors: to build all of them would take longer than to start the program."""
    return [one for one in ARCHITECTURES.values() if one.tensors in (None, len(own))]


def _fitting(architecture: Architecture, own: Shapes) -> Architecture | None:
    for build in (architecture.build, architecture.older):
        if build is not None and own == _wanted(build, architecture.head, own):
            named = replace(architecture, build=build) if build is architecture.older else architecture
            return named if architecture.head is None else named.with_classes(_classes(architecture.head, own))
    return None


def _wanted(build: Callable[..., nn.Module], head: str | None, own: Shapes) -> Shapes:
    """Return the tensors that a network has with as many classes as the checkpoint."""
    wanted = _shapes(build)
    classes = 0 if head is None else _classes(head, own)
    if classes == 0:
        return wanted
    return {key: (classes, *shape[1:]) if key.rpartition(".")[0] == head else shape for key, shape in wanted.items()}


def _classes(head: str, own: Shapes) -> int:
    """Return how many rows the last layer has; 0 where there is no such layer."""
    return (own.get(f"{head}.weight") or (0,))[0]


@cache
def _shapes(build: Callable[..., nn.Module]) -> Shapes:
    with torch.device("meta"):
        return _that_count({key: tensor.shape for key, tensor in build().state_dict().items()})


def _not_recognised(own: Shapes, named: str | None, remedy: str) -> WorkloadError:
    if named is not None:
        message = f"the checkpoint's metadata names the architecture {named!r}, which is not built in"
        return WorkloadError(message, f"if you trust it, {remedy}")
    built_in = {
        architecture.name: _wanted(architecture.build, architecture.head, own) for architecture in _candidates(own)
    }
    alike = {
        name: [key for key in wanted if own[key] != wanted[key]]
        for name, wanted in built_in.items()
        if own.keys() == wanted.keys()
    }
    if alike:
        name, different = min(alike.items(), key=lambda item: len(item[1]))
        key = different[0]
        return WorkloadError(
            f"the checkpoint has the tensor names of {name}, but {key!r} is {list(own[key])}"
            f" and not {list(built_in[name][key])}",
            remedy,
        )
    message = f"the checkpoint's {len(own)} tensors are not those of any built-in architecture"
    return WorkloadError(message, remedy)
