"""The output channels of a checkpoint's tensors, by the network that reads them; no value is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from faultcli.checkpoint import Checkpoint
from faultcli.errors import FaultcliError
from faultcli.formats import Channels, ChannelsOf
from faultcli.live import LiveTensor
from faultcli.modules import channels_of
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.binding import live_tensors
from faultcli.workload.models.loading import load_model


@dataclass(frozen=True)
class FileChannels:
    """The output channels of a file's tensors where they are no slices of the first dimension. `unknown`: why no
    network says so, for people; None if one does."""

    channels: ChannelsOf = field(default_factory=dict)
    unknown: str | None = None


def file_channels(checkpoint: Checkpoint, spec: str | None) -> FileChannels:
    """Return the output channels of a checkpoint's tensors, as a campaign on it takes them.

    No tensor is read, unless the file has other names than the network for some that count.

    Args:
        checkpoint: the file, which is not scaled.
        spec: as `--arch`; None: what the checkpoint says of itself.

    Raises:
        FaultcliError: `spec` is no architecture, or not that of the checkpoint.
    """
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    directory, named = checkpoint.directory, checkpoint.kind != "file"
    try:
        architecture = resolve_architecture(spec, shapes, checkpoint.metadata, directory, is_directory=named)
        network = _without_values(architecture)
        known = channels_of(network)
        if not known:
            return FileChannels()
        found = _by_name(known, shapes, getattr(network, "base_model_prefix", ""))
        if len(found) < len(known):
            model = load_model(architecture, {name: checkpoint.read(name) for name in shapes})
            return FileChannels(live_channels(model, live_tensors(model)))
    except FaultcliError as error:
        if spec is not None:
            raise
        return FileChannels(unknown=error.message)
    return FileChannels(found)


def _by_name(known: Mapping[str, Channels], shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Channels]:
    """Return the channels of tensors that a file names as the network does, with its base model's prefix or without."""
    found = {}
    for name, channels in known.items():
        spellings = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        own = next((spelling for spelling in spellings if spelling in shapes), None)
        if own is not None and math.prod(shapes[own]) == channels.elements:
            found[own] = channels
    return found


def _without_values(architecture: Architecture) -> nn.Module:
    """Build a network on no device, or on the CPU if it cannot be built there; raises as building does."""
    try:
        with torch.device("meta"):
            return architecture.build()
    except Exception:  # a network may compute with its values while it is made
        with torch.random.fork_rng(devices=[]):
            return architecture.build()


def live_channels(network: nn.Module, parameters: Mapping[str, LiveTensor]) -> dict[str, Channels]:
    """Return the output channels of a network's live tensors by their names in the checkpoint, where they are no slices
    of the first dimension; of one expert's share of a tensor, those of the share."""
    known = channels_of(network)
    if not known:
        return {}
    own, places = network.state_dict(), dict[tuple[int, torch.Size], Channels]()
    for key, channels in known.items():
        tensor = own.get(key)
        if tensor is None or not tensor.numel():
            continue
        places[tensor.data_ptr(), tensor.shape] = channels
        if channels.groups == len(tensor) and tensor.dim() == 3 and not channels.in_order:
            for expert in tensor:
                places[expert.data_ptr(), expert.shape] = Channels(1, channels.outer, channels.channels, channels.inner)
    found = {name: places.get((live.data_ptr(), live.shape)) for name, live in _whole(parameters)}
    return {name: channels for name, channels in found.items() if channels is not None}


def _whole(parameters: Mapping[str, LiveTensor]) -> list[tuple[str, Tensor]]:
    return [(name, live) for name, live in parameters.items() if isinstance(live, Tensor) and live.numel()]
