"""A network of a zoo, as it was fine-tuned: with as many classes and input channels as a checkpoint shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.bounded import Shapes, TooMuch, values_of, without_memory

RGB = 3
_SOME_CLASSES = 1000

Make = Callable[..., nn.Module]  # with `num_classes` and `in_chans`, where they are not the defaults


@dataclass(frozen=True)
class FineTuned:
    """What a network is built with: None where it is as its name says."""

    num_classes: int | None = None
    in_chans: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """Those that are not None, as a zoo takes them."""
        return {name: value for name, value in vars(self).items() if value is not None}


def fine_tuned(name: str, make: Make, asked: FineTuned, shapes: Shapes) -> FineTuned:
    """Return with how many classes and channels a checkpoint's network is built.

    The network is built without memory as its name says; where the checkpoint differs in nothing but the size of the
    last layer's output and the first one's input, these are what it is built with.

    Args:
        name: what the network is called.
        make: builds it.
        asked: what the user asks for, which counts.
        shapes: the checkpoint's tensors.

    Raises:
        WorkloadError: the network is far larger than the checkpoint, or cannot be built.
    """
    said = asked
    if not shapes:
        return asked
    try:
        model: Any = _built(make, asked.options, shapes)
        if asked.num_classes is None and getattr(model, "num_classes", None) == 0:  # made to give features
            headed = _built(make, {**asked.options, "num_classes": _SOME_CLASSES}, shapes)
            prefix = _prefix(headed.state_dict(), shapes)
            if all(prefix + key in shapes for key in headed.state_dict().keys() - model.state_dict().keys()):
                model, asked = headed, replace(asked, num_classes=_SOME_CLASSES)
    except TooMuch:
        raise WorkloadError(
            f"{name}: is a far larger network than the checkpoint's {len(shapes)} tensors with"
            f" {values_of(shapes):,} values",
            "pass the --arch that the checkpoint was trained with",
        ) from None
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    prefix = _prefix(own, shapes)
    differing = {key: (shape, tuple(shapes[prefix + key])) for key, shape in own.items() if prefix + key in shapes}
    classes, channels = set[int](), set[int]()
    outputs = _outputs(model, own)
    for built, stored in differing.values():
        if built == stored:
            continue
        if len(built) == len(stored) and built[:1] == (outputs,) and built[1:] == stored[1:]:
            classes.add(stored[0])
        elif len(built) == len(stored) == 4 and (built[0], *built[2:]) == (stored[0], *stored[2:]) and built[1] == RGB:
            channels.add(stored[1])
        else:
            return asked  # more differs, and loading says what
    if len(classes) > 1 or len(channels) > 1 or (classes and said.num_classes) or (channels and said.in_chans):
        return asked
    return FineTuned(classes.pop() if classes else asked.num_classes, channels.pop() if channels else asked.in_chans)


def _built(make: Make, options: Mapping[str, int], shapes: Shapes) -> nn.Module:
    """Return a network without memory; of those that cannot be built so (they look at values), with it."""
    try:
        with without_memory(shapes):
            return make(**options)
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
    with without_memory(shapes, "cpu"):
        return make(**options)


def _outputs(model: Any, own: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many classes a network has as it is built: what it says, else the size of its last tensor."""
    said = getattr(model, "num_classes", None)
    return said if isinstance(said, int) else next(reversed(list(own.values())), (0,))[0]


def _prefix(own: Mapping[str, object], shapes: Shapes) -> str:
    """Return what stands before the network's own names in the checkpoint: most often nothing."""
    if any(key in shapes for key in own):
        return ""
    last = next(reversed(list(own)), "")
    found = Counter(name.removesuffix(last) for name in shapes if last and name.endswith(f".{last}"))
    return found.most_common(1)[0][0] if found else ""


def with_channels(model: nn.Module, channels: int) -> nn.Module:
    """Return a network whose first convolution of RGB images takes another number of channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == RGB:
            made = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None,
                padding_mode=module.padding_mode,
            )
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, made)
            break
    return model


def for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return means or deviations of RGB for another number of channels: their average, for all."""
    return values if len(values) in (1, channels) else (float(torch.tensor(values, dtype=torch.float64).mean()),)
