"""The table of built-in architectures, and how the architecture of a checkpoint is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import nn

from faultcli.errors import WorkloadError, unknown_name
from faultcli.workload.factory import call_factory
from faultcli.workload.networks.resnet import CifarResNet
from faultcli.workload.networks.small import DigitsCnn, LeNet, MnistCnn
from faultcli.workload.networks.squeezenet import SqueezeNet
from faultcli.workload.preprocess import Preprocess

METADATA_KEY = "faultcli.arch"

# Batch norm counts its training batches in a scalar that inference never reads.
IGNORED_SUFFIX = "num_batches_tracked"


@dataclass(frozen=True)
class Architecture:
    """A network without its weights, and what is known of its inputs."""

    name: str  # as in the table, or package.module:factory
    build: Callable[[], nn.Module]  # a new module, float32; its initial weights do not matter
    preprocess: Preprocess = field(default_factory=Preprocess)
    input_shape: tuple[int, ...] | None = None  # of one input, channels first; None: not known
    num_classes: int | None = None  # None: known only from the first logits
    data: str = "FILE.npz"  # the --data that fits it, for messages
    description: str = ""  # one line
    source: str = ""  # who defined it, and whose tensor names it has

    def with_preprocess(self, preprocess: Preprocess) -> Architecture:
        """Return a copy that prepares its inputs differently."""
        return replace(self, preprocess=preprocess)


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
        input_shape=(3, 224, 224),
        num_classes=1000,
        data="FILE.npz",
        description="SqueezeNet 1.1 for ImageNet, 1.2 million weights",
        source="Iandola et al., arXiv 1602.07360; keys as torchvision",
    ),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _BUILT_IN}


def resolve_architecture(
    spec: str | None, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
) -> Architecture:
    """Find the architecture of a checkpoint.

    Args:
        spec: what the user passed as --arch: a built-in name or `package.module:factory`. None: what the metadata
            names, if it is built in; else the one whose tensor names and shapes are those of the checkpoint.
        shapes: the checkpoint's tensors, name to shape.
        metadata: the checkpoint's metadata. Nothing that it names is ever imported.

    Raises:
        UsageError: no built-in has the name `spec`.
        WorkloadError: the factory fails, or nothing says or shows which architecture the checkpoint has.
    """
    if spec is not None:
        if ":" in spec:
            return _from_factory(spec)
        if spec not in ARCHITECTURES:
            raise unknown_name("architecture", spec, ARCHITECTURES)
        return ARCHITECTURES[spec]
    named = (metadata or {}).get(METADATA_KEY)
    if named in ARCHITECTURES:
        return ARCHITECTURES[named]
    own = {name: tuple(shape) for name, shape in shapes.items() if not name.endswith(IGNORED_SUFFIX)}
    for name, built_in in _built_in_shapes().items():
        if own == built_in:
            return ARCHITECTURES[name]
    raise _not_recognised(own, named)


def _from_factory(spec: str) -> Architecture:
    made = call_factory("architecture", spec)
    if isinstance(made, Architecture):
        return made
    if isinstance(made, nn.Module):
        return Architecture(name=spec, build=partial(_build_from_factory, spec))
    raise WorkloadError(
        f"architecture {spec!r}: the factory returned a {type(made).__name__}",
        "return a torch.nn.Module or a faultcli.workload.architectures.Architecture",
    )


def _build_from_factory(spec: str) -> nn.Module:
    made = call_factory("architecture", spec)
    if not isinstance(made, nn.Module):
        raise WorkloadError(f"architecture {spec!r}: the factory returned a {type(made).__name__} the second time")
    return made


@cache
def _built_in_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    with torch.device("meta"):
        states = {name: architecture.build().state_dict() for name, architecture in ARCHITECTURES.items()}
    return {
        name: {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith(IGNORED_SUFFIX)}
        for name, state in states.items()
    }


def _not_recognised(own: Mapping[str, tuple[int, ...]], named: str | None) -> WorkloadError:
    remedy = f"pass --arch: {', '.join(ARCHITECTURES)}, or package.module:factory"
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
