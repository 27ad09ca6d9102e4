"""The output channels of a checkpoint's tensors, by the network that reads them; no value is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from faultcli.checkpoint import Checkpoint
from faultcli.errors import FaultcliError
from faultcli.formats import Channels, ChannelsOf
from faultcli.modules import channels_of
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.architectures import Architecture


@dataclass(frozen=True)
class FileChannels:
    """The output channels of a file's tensors where they are no slices of the first dimension. `unknown`: why no
    network says so, for people; None if one does."""

    channels: ChannelsOf = field(default_factory=dict)
    unknown: str | None = None


def file_channels(checkpoint: Checkpoint, spec: str | None) -> FileChannels:
    """Return the output channels of a checkpoint's tensors, as a campaign on it takes them.

    Args:
        checkpoint: the file; no tensor is read.
        spec: as `--arch`; None: what the checkpoint says of itself.

    Raises:
        FaultcliError: `spec` is no architecture.
    """
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    directory, named = checkpoint.directory, checkpoint.kind == "directory"
    try:
        architecture = resolve_architecture(spec, shapes, checkpoint.metadata, directory, is_directory=named)
        network = _without_values(architecture)
    except FaultcliError as error:
        if spec is not None:
            raise
        return FileChannels(unknown=error.message)
    known, prefix = channels_of(network), getattr(network, "base_model_prefix", "")
    if not known:
        return FileChannels()
    found = {}
    for name, info in checkpoint.tensors.items():
        spellings = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        own = next((known[spelling] for spelling in spellings if spelling in known), None)
        if own is not None and own.elements == info.elements:
            found[name] = own
    return FileChannels(found)


def _without_values(architecture: Architecture) -> nn.Module:
    """Build a network on no device, or on the CPU if it cannot be built there; raises as building does."""
    try:
        with torch.device("meta"):
            return architecture.build()
    except Exception:  # a network may compute with its values while it is made
        with torch.random.fork_rng(devices=[]):
            return architecture.build()


def live_channels(network: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Channels]:
    """Return the output channels of a network's live tensors by their names in the checkpoint, where they are no slices
    of the first dimension; of one expert's share of a tensor, those of the share."""
    known = channels_of(network)
    if not known:
        return {}
    own, found = network.state_dict(), {}
    places: dict[tuple[int, torch.Size], Channels] = {}
    for key, channels in known.items():
        tensor = own.get(key)
        if tensor is None or not tensor.numel():
            continue
        places[tensor.data_ptr(), tensor.shape] = channels
        if channels.groups == len(tensor) > 0 and tensor.dim() == 3:
            for expert in tensor:
                places[expert.data_ptr(), expert.shape] = Channels(1, channels.outer, channels.channels, channels.inner)
    for name, live in parameters.items():
        seen = places.get((live.data_ptr(), live.shape))
        if seen is not None and seen != Channels.first(tuple(live.shape)):
            found[name] = seen
    return found
