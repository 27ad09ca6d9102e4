"""The expected squared error of a weight that went through the memory, in closed form: no model is run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from faultcli.formats import ScaledFormat
from faultcli.protect.base import Words
from faultcli.protect.stored import StoredTensor

_BEYOND = 1e140


def expected_error(stored: StoredTensor, weights: Tensor, ber: float) -> Tensor:
    """Return the expected squared error of every element, float64, in the tensor's shape and the weights' unit squared.

    To first order in the bit-error rate p: (r − w)² + p · Σ_b ((r_b − w)² − (r − w)²), with r what reads without
    faults and r_b what reads with bit b flipped, over all bits of the word, of its scale and of their check words.
    Where blocks are corrected it is (1 − P)·(r − w)² + P·w² with P the probability that a block has more flips than can
    be corrected.
    Reads that are not finite count as the largest finite value of the format, whatever the factor; none counts for more
    than 1e140, so that sums of squares are finite in fp64, too.

    Args:
        stored: the tensor in the memory.
        weights: what was to be stored.
        ber: probability that a bit flips.
    """
    exact = weights.double()
    clean = (_finite(stored, stored.read()) - exact).square()
    error = _damaged(clean, exact, stored, (flip for _, flip in word_flips(stored, exact)), clean, ber)
    if stored.scales:
        error = _damaged(error, exact, stored.scales, (flip for _, flip in scale_flips(stored, exact)), clean, ber)
    return error


def _damaged(
    error: Tensor, exact: Tensor, words: StoredTensor, flips: Iterator[Tensor], clean: Tensor, ber: float
) -> Tensor:
    """Return an error with what flips of these words add to it; a block of words that is lost reads as 0."""
    failures = [p for link in words.links if (p := link.block_failure(ber)) is not None]
    if failures:
        lost = min(failures)  # with two correcting links, what one leaves the other still sees: take the better one
        return (1 - lost) * error + lost * exact.square()
    return error + ber * sum((flip - clean for flip in flips), torch.zeros_like(clean))


def single_flips(stored: StoredTensor, weights: Tensor) -> list[tuple[str, Tensor]]:
    """Return, per stored bit of a word (of its check words, its scale and the scale's), the squared error of all
    elements if only it flips; a flip of a scale is counted at every element that shares it.

    The label is `bit N`, or the protection's name and `bit N` of its check words; those of scales begin with `scale`.
    For protections that work word by word; in blocks of several words the flips would meet.
    """
    exact = weights.double()
    return [*word_flips(stored, exact), *scale_flips(stored, exact)]


def word_flips(stored: StoredTensor, exact: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the `single_flips` of the elements' own words."""
    for label, words, checks in _flipped(stored):
        read = stored.values_of(stored.decode_words(words, checks)[: stored.elements], None)
        yield label, (_finite(stored, read) - exact).square()


def scale_flips(stored: StoredTensor, exact: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the `single_flips` of scales that lie in the memory."""
    scales, format = stored.scales, stored.format
    if scales is None or not isinstance(format, ScaledFormat):
        return
    data = stored.decode_words(stored.words, stored.checks)[: stored.elements]
    groups = format.group_of(torch.arange(stored.elements))
    for label, words, checks in _flipped(scales):
        units = scales.values_of(scales.decode_words(words, checks)[: scales.elements], None)[groups]
        yield f"scale {label}", (_finite(stored, stored.values_of(data, None, units)) - exact).square()


def _flipped(stored: StoredTensor) -> Iterator[tuple[str, Words, list[Words]]]:
    """Yield all words and check words with one bit flipped in every word, or every check word."""
    for bit in range(stored.format.bits):
        yield f"bit {bit}", stored.words ^ stored.words.dtype.type(1 << bit), list(stored.checks)
    for position, (link, name) in enumerate(zip(stored.links, stored.names, strict=True)):
        for column in range(link.per_block):
            for bit in range(link.check_bits):
                checks = list(stored.checks)
                flipped = checks[position].copy()
                flipped[:, column] ^= flipped.dtype.type(1 << bit)
                checks[position] = flipped
                yield f"{name} bit {column * link.check_bits + bit}", stored.words, checks


def _finite(stored: StoredTensor, values: Tensor) -> Tensor:
    wide = values.double()
    if bool((wide.abs() <= _BEYOND).all()):
        return wide
    # Not divided by the factor: a NaN is no smaller for having been scaled.
    largest = float(getattr(stored.format, "largest", torch.finfo(torch.float64).max))
    return torch.where(wide.isfinite(), wide, largest).clamp(-_BEYOND, _BEYOND)
