"""The expected squared error of a weight that went through the memory, in closed form: no model is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from faultcli.formats import ScaledFormat
from faultcli.protect.base import Fitted, Words
from faultcli.protect.inplace import FittedInPlace
from faultcli.protect.protected_tensor import StoredTensor

_BEYOND = 1e140


def expected_error(stored: StoredTensor, weights: Tensor, ber: float) -> Tensor:
    """Return the expected squared error of every element, float64, in the tensor's shape and the weights' unit squared.

    To first order in the bit-error rate p: (r − w)² + p · Σ_b ((r_b − w)² − (r − w)²), with r what reads without
    faults and r_b what reads with bit b flipped, over all bits of the word, of its scale and of their check words.
    Where blocks are corrected, the first order is (1 − P)·(r − w)² + P·e² with P the probability that a block is known
    to be beyond correction, and e² = w² where it then reads as 0. Flips that a protection does not notice, because
    several met, are added to either: bit by bit as above, with the probability that a bit is left wrong
    (`Fitted.unnoticed`).
    Reads that are not finite count as the largest finite value of the format, whatever the factor; none counts for more
    than 1e140, so that sums of squares are finite in fp64, too.

    Args:
        stored: the tensor in the memory.
        weights: what was to be stored.
        ber: probability that a bit flips.
    """
    exact = weights.double()
    clean = (_finite(stored, stored.read()) - exact).square()
    own = partial(_word_errors, stored, exact)
    error = _damaged(clean, exact, stored, own, clean, ber)
    if stored.scales:
        error = _damaged(error, exact, stored.scales, partial(_scale_errors, stored, exact), clean, ber)
    return error


def _damaged(error: Tensor, exact: Tensor, words: StoredTensor, errors: _Errors, clean: Tensor, ber: float) -> Tensor:
    """Return an error with what flips of these words add to it."""
    failing = [(p, link) for link in words.links if (p := link.block_failure(ber)) is not None]
    if failing:
        lost, link = min(failing, key=lambda pair: pair[0])  # of two correcting links the better one
        error = (1 - lost) * error + lost * (_lost_errors(words, link, exact, ber) if lost else 0.0)
    else:
        error = error + ber * sum((flip - clean for _, flip in errors(_flipped(words))), torch.zeros_like(clean))
    for chance, flipped in _unnoticed(words, ber):
        error = error + chance * sum((flip - clean for _, flip in errors(flipped)), torch.zeros_like(clean))
    return error


def _lost_errors(words: StoredTensor, link: Fitted, exact: Tensor, ber: float) -> Tensor:
    """Return the squared errors of all elements if their blocks are beyond what a link corrects: read as 0, or for what
    they probably were."""
    if not isinstance(link, FittedInPlace):
        return exact.square()
    levels, mean, square = (table.view(-1) for table in link.lost_moments(ber))
    probe = int((levels - link.distribution.peak / 16).abs().argmin())  # a level that no guard takes for an outlier
    dropped = max(0, words.format.bits - len(levels).bit_length() + 1)
    middle = probe << dropped | (1 << dropped >> 1)
    unit = words.values_of(np.full(words.elements, middle, dtype=words.words.dtype), None).double()
    unit = _finite(words, unit) / levels[probe]
    own = torch.from_numpy(link.top(words.decode_words(words.words, words.checks)[: words.elements]).astype(np.int64))
    own = own.view(exact.shape)
    return unit.square() * (square[own] - 2 * levels[own] * mean[own] + levels[own].square())


def single_flips(stored: StoredTensor, weights: Tensor) -> list[tuple[str, Tensor]]:
    """Return, per stored bit of a word (of its check words, its scale and the scale's), the squared error of all
    elements if only it flips; a flip of a scale is counted at every element that shares it.

    The label is `bit N`, or the protection's name and `bit N` of its check words; those of scales begin with `scale`.
    For protections that work word by word; in blocks of several words the flips would meet.
    """
    exact = weights.double()
    own = list(_word_errors(stored, exact, _flipped(stored)))
    return own + list(_scale_errors(stored, exact, _flipped(stored.scales))) if stored.scales else own


_Flipped: TypeAlias = Iterator[tuple[str, Words]]  # which bit, and the words as they are read
_Errors: TypeAlias = Callable[[_Flipped], Iterator[tuple[str, Tensor]]]


def _word_errors(stored: StoredTensor, exact: Tensor, flipped: _Flipped) -> Iterator[tuple[str, Tensor]]:
    """Yield the squared errors of all elements when their words read like this."""
    for label, words in flipped:
        read = stored.values_of(words[: stored.elements], None)
        yield label, (_finite(stored, read) - exact).square()


def _scale_errors(stored: StoredTensor, exact: Tensor, flipped: _Flipped) -> Iterator[tuple[str, Tensor]]:
    """Yield the squared errors of all elements when the words of their scales read like this."""
    scales, format = stored.scales, stored.format
    assert scales is not None
    assert isinstance(format, ScaledFormat)
    data = stored.decode_words(stored.words, stored.checks)[: stored.elements]
    groups = format.group_of(torch.arange(stored.elements))
    for label, words in flipped:
        units = scales.values_of(words[: scales.elements], None)[groups]
        yield f"scale {label}", (_finite(stored, stored.values_of(data, None, units)) - exact).square()


def _unnoticed(stored: StoredTensor, ber: float) -> Iterator[tuple[float, _Flipped]]:
    """Yield the probability that a bit is wrong and its protection did not notice, and the words for every such bit.

    Of two links that correct blocks the better one is looked at: what it misses, the other does not expect.
    """
    correcting = [place for place, link in enumerate(stored.links) if link.block_failure(ber) is not None]
    better = min(correcting, key=lambda place: stored.links[place].unnoticed(ber), default=None)
    rate = ber
    for place in reversed(range(len(stored.links))):
        link = stored.links[place]
        chance = link.unnoticed(rate)
        if place not in correcting or place == better:
            rate = link.rate_left(rate)
            if chance:
                yield chance, _left_wrong(stored, min(place, *correcting) if place in correcting else place)


def _left_wrong(stored: StoredTensor, position: int) -> _Flipped:
    """Yield all words as they are read when one bit in each of them is wrong after the link at `position` was read."""
    seen = stored.read_links(stored.words, stored.checks, slice(position, None))
    for bit in range(stored.format.bits):
        wrong = seen ^ seen.dtype.type(1 << bit)
        yield f"bit {bit}", stored.read_links(wrong, stored.checks, slice(position))


def _flipped(stored: StoredTensor) -> _Flipped:
    """Yield all words as they are read with one bit flipped in every word, or every check word."""
    for bit in range(stored.format.bits):
        yield (
            f"bit {bit}",
            stored.decode_words(stored.words ^ stored.words.dtype.type(1 << bit), stored.checks),
        )
    for position, (link, name) in enumerate(zip(stored.links, stored.names, strict=True)):
        for column in range(link.per_block):
            for bit in range(link.check_bits):
                checks = list(stored.checks)
                flipped = checks[position].copy()
                flipped[:, column] ^= flipped.dtype.type(1 << bit)
                checks[position] = flipped
                yield f"{name} bit {column * link.check_bits + bit}", stored.decode_words(stored.words, checks)


def _finite(stored: StoredTensor, values: Tensor) -> Tensor:
    wide = values.double()
    if bool((wide.abs() <= _BEYOND).all()):
        return wide
    # Not divided by the factor: a NaN is no smaller for having been scaled.
    largest = float(getattr(stored.format, "largest", torch.finfo(torch.float64).max))
    return torch.where(wide.isfinite(), wide, largest).clamp(-_BEYOND, _BEYOND)
