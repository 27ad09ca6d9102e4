"""A model in memory with faults in what its layers give, and in its tensors where these are at risk, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faultcli.activations.asked import check_asked, has_scale
from faultcli.activations.layers import SeenOutputs
from faultcli.activations.stored import ActivationHit, ActivationMemory
from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import FaultMap
from faultcli.faults.selection import Selecting, Selection
from faultcli.memory import Hit, MemoryImage, Patch
from faultcli.modules import evaluating
from faultcli.protect.chain import Chain


@dataclass(frozen=True)
class OutputsHit(Hit):
    """What faults did to tensors, if any are at risk, and to outputs of layers: these as far as the model has run."""

    outputs: ActivationHit

    @property
    def flips(self) -> int:
        return super().flips + self.outputs.flips

    @property
    def values_changed(self) -> int:
        return super().values_changed + self.outputs.values_changed


@contextmanager
def damaged(
    model: nn.Module | Mapping[str, Tensor],
    law: FaultLaw,
    selection: Selection,
    format: str,
    chain: Chain,
    inputs: Any = None,
    *,
    seed: int,
    trial: int,
) -> Iterator[Hit]:
    """Hold the faults of one trial of a campaign in a model, for the length of a `with` block.

    Args:
        model: a module; or live tensors by name, which have no layers.
        law: which faults; of outputs of layers, bit flips at a rate.
        selection: which tensors and outputs of layers are at risk.
        format: number format of both; one scale per layer, if any, is taken from `inputs`.
        chain: protections of the tensors.
        inputs: of outputs of layers: what the model is run on once, without faults and in evaluation mode, to see what
            its layers give.
        seed, trial: fix the faults.

    Raises:
        UsageError: there are no inputs or no layers to hit, or what is asked for does not go together.
        FormatError: a value cannot be stored.
        FaultError: the law covers nothing.
    """
    tensors, glob, image = selection.of_tensors, selection.layers, None
    check_asked(selection, format, law, chain)
    if tensors is not None:
        chosen: Selecting = {"target": tensors.target, "include": tensors.include, "exclude": tensors.exclude}
        image = MemoryImage.of(model, format=format, protect=chain, ber=law.ber if chain.needs_ber else None, **chosen)
    if glob is None and inputs is not None:
        raise UsageError(f"target {selection.target}: its faults need no inputs", "leave inputs out, or pass target=")
    if image is not None and glob is None:
        with image.faulty(law, seed=seed, trial=trial) as hit:
            yield hit
        return
    assert glob is not None
    if not isinstance(model, nn.Module):
        raise UsageError(f"target {selection.target}: tensors by name have no layers", "pass the module")
    if inputs is None:
        raise UsageError(
            f"target {selection.target}: what layers give is seen when the model runs, and there is nothing to run it"
            " on",
            "pass inputs=, a batch as the model takes it",
        )
    with nullcontext() if image is None else image.as_stored():
        seen = SeenOutputs.of(model, glob, lambda: _run(model, inputs), bounds=has_scale(format))
        memory = ActivationMemory.of(seen, format, bounds=seen.bounds)
        nothing = Hit(FaultMap({}, {}, format, law.spec, seed, trial), Patch({}))
        in_tensors = nullcontext(nothing) if image is None else image.faulty(law, seed=seed, trial=trial)
        with in_tensors as hit, memory.faulty(model, law, seed=seed, trial=trial) as outputs:
            yield OutputsHit(hit.faults, hit.patch, outputs)


def _run(model: nn.Module, inputs: Any) -> None:
    """Run a model on a batch: a tuple or a mapping are its arguments."""
    named = inputs if isinstance(inputs, Mapping) else {}
    listed = inputs if isinstance(inputs, tuple) else () if named else (inputs,)
    if any(isinstance(one, Tensor) and not one.numel() for one in (*listed, *named.values())):
        raise UsageError("inputs: a batch without inputs shows nothing of what layers give", "pass some")
    with evaluating(model), torch.no_grad():
        try:
            model(*listed, **named)
        except (TypeError, RuntimeError, ValueError, KeyError, IndexError) as error:
            why = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"inputs: the model does not run on them: {why}",
                "pass a batch as the model takes it; a tuple or a mapping is taken as its arguments",
            ) from error
