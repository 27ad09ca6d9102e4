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
from faultcli.workload.models.networks.resnet import CifarResNet
from faultcli.workload.models.networks.small import DigitsCnn, LeNet, MnistCnn
from faultcli.workload.models.networks.squeezenet import SqueezeNet
from faultcli.workload.preprocess import Geometry, Preprocess

METADATA_KEY = "faultcli.arch"

# Batch norm counts its training batches in a scalar that inference never reads.
IGNORED_SUFFIX = "num_batches_tracked"


@dataclass(frozen=True)
class Language:
    """What is known of a language model's inputs."""

    vocabulary: int  # token ids count from 0 to this, exclusive
    context: int | None = None  # tokens that the model can look at; None: not known
    tokenizer: Path | None = None  # the directory that may hold its tokenizer


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


@dataclass(frozen=True)
class Architecture:
    """A network without its weights, and what is known of its inputs."""

    name: str  # as in the table, or as it was asked for
    build: Callable[[], nn.Module]  # a new module, float32; its initial weights do not matter
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
    data: str = "FILE.npz"  # the --data that fits it, for messages
    description: str = ""  # one line
    source: str = ""  # who defined it, and whose tensor names it has
    notes: tuple[str, ...] = ()  # what was found when it was opened that a user may not expect, a line each

    @property
    def wanted(self) -> Wanted:
        """What reading data for the network depends on."""
        return {"geometry": self.geometry, "takes": self.takes, "texts": self.texts}

    def with_preprocess(self, preprocess: Preprocess) -> Architecture:
        """Return a copy that prepares its inputs differently."""
        return replace(self, preprocess=preprocess)


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
        preprocess=_IMAGENET,
        input_shape=(3, 32, 32),
        num_classes=10,
        data="cifar10:DIR",
        description=f"residual network of {depth} layers for CIFAR-10, shortcuts of option A",
        source="He et al., CVPR 2016, section 4.2; keys as akamaster/pytorch_resnet_cifar10",
    )


_BUILT_IN = (
    Architecture(
        name="digits-cnn",
        build=DigitsCnn,
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
        input_shape=(1, 28, 28),
        num_classes=10,
        data="mnist:DIR",
        description="2 convolutions and 2 dense layers on MNIST, the kind that the EDMN paper corrects",
        source="faultcli, examples/train_mnist.py",
    ),
    Architecture(
        name="lenet",
        build=LeNet,
        input_shape=(1, 28, 28),
        num_classes=10,
        data="mnist:DIR",
        description="LeNet as in Caffe's MNIST example, no activation after the convolutions",
        source="LeCun et al., 1998; keys as BruceDai/test-data models/lenet_nchw",
    ),
    *(_cifar_resnet(depth) for depth in (20, 32, 44, 56)),
    Architecture(
        name="squeezenet1_1",
        build=SqueezeNet,
        preprocess=_IMAGENET,
        geometry=Geometry((224, 224), resize=256),
        input_shape=(3, 224, 224),
        num_classes=1000,
        data="images:DIR",
        description="SqueezeNet 1.1 for ImageNet, 1.2 million weights",
        source="Iandola et al., arXiv 1602.07360; keys as torchvision",
    ),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _BUILT_IN}


def recognise(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str], spellings: Sequence[str]
) -> Architecture:
    """Return the built-in architecture that the metadata names, else the one that has exactly these tensors.

    Args:
        shapes: the checkpoint's tensors, name to shape.
        metadata: the checkpoint's metadata. Nothing that it names is ever imported.
        spellings: what --arch takes, for the message.

    Raises:
        WorkloadError: neither says which it is.
    """
    named = metadata.get(METADATA_KEY)
    if named in ARCHITECTURES:
        return ARCHITECTURES[named]
    own = {name: tuple(shape) for name, shape in shapes.items() if not name.endswith(IGNORED_SUFFIX)}
    for name, built_in in _built_in_shapes().items():
        if own == built_in:
            return ARCHITECTURES[name]
    raise _not_recognised(own, named, f"pass --arch: {', '.join([*ARCHITECTURES, *spellings])}")


@cache
def _built_in_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    with torch.device("meta"):
        states = {name: architecture.build().state_dict() for name, architecture in ARCHITECTURES.items()}
    return {
        name: {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith(IGNORED_SUFFIX)}
        for name, state in states.items()
    }


def _not_recognised(own: Mapping[str, tuple[int, ...]], named: str | None, remedy: str) -> WorkloadError:
    if named is not None:
        message = f"the checkpoint's metadata names the architecture {named!r}, which is not built in"
        return WorkloadError(message, f"if you trust it, {remedy}")
    alike = {
        name: [key for key in built_in if own[key] != built_in[key]]
        for name, built_in in _built_in_shapes().items()
        if own.keys() == built_in.keys()
    }
    if alike:
        name, different = min(alike.items(), key=lambda item: len(item[1]))
        key = different[0]
        return WorkloadError(
            f"the checkpoint has the tensor names of {name}, but {key!r} is {list(own[key])}"
            f" and not {list(_built_in_shapes()[name][key])}",
            remedy,
        )
    message = f"the checkpoint's {len(own)} tensors are not those of any built-in architecture"
    return WorkloadError(message, remedy)
