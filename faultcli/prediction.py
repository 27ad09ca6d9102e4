"""What faults would do to each tensor, predicted without running the model: the error, the bits that carry it, and the
factor that would make it least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from faultcli.checkpoint import Checkpoint
from faultcli.errors import FormatError
from faultcli.formats import format_for
from faultcli.protect.expected import expected_error, single_flips
from faultcli.protect.factor_search import TABLE_BITS, FactorSearch
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.scaling import read_weights


@dataclass(frozen=True)
class Prediction:
    """One tensor. Errors are expected squared errors of a weight, relative to the mean square of its weights."""

    name: str
    error: float  # as it is stored now
    carriers: tuple[tuple[int | str, float], ...]  # bits (of scales: "scale N") and their part of what flips add
    best_factor: float
    best_error: float


def predict(
    checkpoint: Checkpoint,
    names: Sequence[str],
    format_name: str,
    ber: float,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Prediction]:
    """Yield a prediction per tensor; one tensor is in memory at a time, and a sample of it is looked at.

    Args:
        checkpoint: scaled or not; a scaled one is predicted as its memory holds it.
        names: the tensors at risk.
        format_name: number format of the memory.
        ber: probability that a bit flips.
        progress: called with the bytes done since its last call.

    Raises:
        FormatError: a tensor cannot be stored in the format; it is named.
    """
    read, factors = read_weights(checkpoint)
    for name in names:
        info, weights = checkpoint.info(name), read(name)
        if not weights.is_floating_point():
            raise FormatError(f"tensor {name!r} holds whole numbers; errors are predicted for weights", "leave it out")
        given = factors[name] if factors and name in factors else None
        per_channel = given is not None and len(given.values) > 1
        format = format_for(format_name, info.dtype)
        how = {"per_channel": per_channel, "sample_bits": TABLE_BITS}
        search = FactorSearch(name, weights, format, (), ber, **how)  # type: ignore[arg-type]
        stored = StoredTensor.write(name, search.sample, search.format, [given] if given else [])
        clean = expected_error(stored, search.sample, 0.0)
        added = {
            _bit(label): float((error - clean).sum().clamp(min=0))
            for label, error in single_flips(stored, search.sample)
        }
        whole = sum(added.values()) or 1.0
        shares = sorted(((bit, part / whole) for bit, part in added.items()), key=lambda pair: -pair[1])
        best = search.best_factor()
        yield Prediction(
            name,
            search.error(given.values if given else torch.ones(1)),
            tuple(shares[:3]),
            best,
            search.error(torch.tensor([best])),
        )
        progress(info.nbytes)


def _bit(label: str) -> int | str:
    """Return the position in `bit N` as a number; `scale bit N` as `scale N`."""
    short = label.replace("bit ", "")
    return int(short) if short.isdecimal() else short
