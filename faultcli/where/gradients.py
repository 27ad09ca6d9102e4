"""How much a model's answers hurt, and the gradient of that in its stored weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.live import LiveTensor, Scattered
from faultcli.workload.base import BaseWorkload

CAP = 10.0  # nats that one answer counts at the most
_TELLING = 0.02  # nats: the right answer is 4 nats above the rest
_HOTTEST = 1024.0


def hurt(workload: BaseWorkload, temperature: float = 1.0) -> float:
    """Return the mean cross entropy of the answers now, in nats, each counted as `CAP` at the most; one that is not
    finite counts as `CAP`. Without the cap one wild answer would outweigh many wrong ones."""
    total, count = 0.0, 0
    with torch.no_grad():
        for losses in workload.losses(temperature):
            total += float(_capped(losses).double().sum())
            count += len(losses)
    return total / count


def telling(workload: BaseWorkload) -> float:
    """Return the temperature, a power of 2, at which the loss of the median answer is not next to nothing.

    A network that is sure of its answers has cross entropies of 1e-6 and gradients to match, of a few answers only that
    are nearly wrong: flips that rank high by them hurt those few. Divided logits are less sure.
    """
    temperature = 1.0
    with torch.no_grad():
        while float(torch.cat(list(workload.losses(temperature))).median()) < _TELLING and temperature < _HOTTEST:
            temperature *= 2
    return temperature


def _capped(losses: Tensor) -> Tensor:
    return torch.where(losses.isnan(), CAP, losses.clamp(max=CAP))


def gradients(workload: BaseWorkload, names: Sequence[str], temperature: float = 1.0) -> dict[str, Tensor]:
    """Return the gradient of the summed `hurt` in stored tensors, float32 on the CPU, in their shapes.

    Tensors that the model holds as no parameter (statistics of batch norm) have none, and are left out. What is not
    finite is 0: nothing is known of it. The model, gradients that it has included, is left as it was.

    Args:
        workload: a model with losses.
        names: tensors that the model reads, by their names in the checkpoint.
        temperature: that logits are divided by.

    Raises:
        WorkloadError: the model gives no gradients.
    """
    live = {name: workload.parameters[name] for name in names}
    with _collecting(workload.model) as collected:
        try:
            for losses in workload.losses(temperature):
                _capped(losses).sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise WorkloadError(
                f"{workload.architecture.name}: gives no gradients: {str(error).splitlines()[0]}",
                "let the model compute outside of torch.no_grad and torch.inference_mode",
            ) from error
        found = {name: _gathered(own, collected) for name, own in live.items()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@contextmanager
def _collecting(model: nn.Module) -> Iterator[Mapping[int, list[tuple[Tensor, Tensor]]]]:
    """Give, by the memory that they lie in, parameters and the tensors that their gradients are added up in."""
    own = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    before = [(parameter.requires_grad, parameter.grad) for parameter in own]
    collected: dict[int, list[tuple[Tensor, Tensor]]] = {}
    try:
        for parameter in own:
            parameter.requires_grad_(True)
            # Laid out as the parameter, so that a view of the one is a view of the other.
            sum_of = torch.empty_strided(
                parameter.shape, parameter.stride(), dtype=parameter.dtype, device=parameter.device
            )
            parameter.grad = sum_of.zero_()
            collected.setdefault(parameter.untyped_storage().data_ptr(), []).append((parameter, sum_of))
        with torch.enable_grad():
            yield collected
    finally:
        for parameter, (required, gradient) in zip(own, before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(required)
            parameter.grad = gradient


def _gathered(live: LiveTensor, collected: Mapping[int, list[tuple[Tensor, Tensor]]]) -> Tensor | None:
    if isinstance(live, Tensor):
        found = _same_view(live, collected)
        return None if found is None else _finite(found)
    return _gathered_parts(live, collected)


def _gathered_parts(live: Scattered, collected: Mapping[int, list[tuple[Tensor, Tensor]]]) -> Tensor | None:
    whole = torch.zeros(live.shape)
    for part in live.parts:
        found = _same_view(part.view, collected)
        if found is None:
            return None
        part.of(whole).copy_(_finite(found))
    return whole


def _same_view(view: Tensor, collected: Mapping[int, list[tuple[Tensor, Tensor]]]) -> Tensor | None:
    """Return of the gradient what a view is of its parameter."""
    for parameter, gradient in collected.get(view.untyped_storage().data_ptr(), []):
        offset = view.storage_offset() - parameter.storage_offset()
        steps = zip(view.shape, view.stride(), strict=True)
        last = offset + sum((count - 1) * step for count, step in steps)
        if (
            parameter.dtype == view.dtype
            and offset >= 0
            and last < gradient.untyped_storage().nbytes() // view.itemsize
        ):
            return gradient.as_strided(view.shape, view.stride(), offset)
    return None


def _finite(gradient: Tensor) -> Tensor:
    return gradient.detach().to("cpu", torch.float32, copy=True).nan_to_num(0.0, 0.0, 0.0)
