"""The expected squared error of a weight that went through the memory, in closed form: no model is run."""

from __future__ import annotations

import torch
from torch import Tensor

from faultcli.protect.base import Words
from faultcli.protect.stored import StoredTensor

_BEYOND = 1e140


def expected_error(stored: StoredTensor, weights: Tensor, ber: float) -> Tensor:
    """Return the expected squared error of every element, float64, in the tensor's shape and the weights' unit squared.

    To first order in the bit-error rate p: (r − w)² + p · Σ_b ((r_b − w)² − (r − w)²), with r what reads without faults
    and r_b what reads with bit b flipped, over all bits of the word and of its check words. Where blocks are corrected
    it is (1 − P)·(r − w)² + P·w² with P the probability that a block has more flips than can be corrected.
    Reads that are not finite count as the largest finite value of the format, whatever the factor; none counts for more
    than 1e140, so that sums of squares are finite in fp64, too.

    Args:
        stored: the tensor in the memory.
        weights: what was to be stored.
        ber: probability that a bit flips.
    """
    exact = weights.double()
    clean = (_finite(stored, stored.read()) - exact).square()
    failures = [p for link in stored.links if (p := link.block_failure(ber)) is not None]
    if failures:
        lost = min(failures)  # with two correcting links, what one leaves the other still sees: take the better one
        return (1 - lost) * clean + lost * exact.square()
    return clean + ber * sum((error - clean for _, error in single_flips(stored, exact)), torch.zeros_like(clean))


def single_flips(stored: StoredTensor, weights: Tensor) -> list[tuple[str, Tensor]]:
    """Return, per stored bit of a word (and of its check words), the squared error of all elements if only it flips.

    The label is `bit N`, or the protection's name and `bit N` of its check words. For protections that work word by
    word; in blocks of several words the flips would meet.
    """
    found = []
    exact = weights.double()
    for bit in range(stored.format.bits):
        words = stored.words ^ stored.words.dtype.type(1 << bit)
        found.append((f"bit {bit}", _error(stored, words, list(stored.checks), exact)))
    for position, (link, name) in enumerate(zip(stored.links, stored.names, strict=True)):
        for column in range(link.per_block):
            for bit in range(link.check_bits):
                checks = list(stored.checks)
                flipped = checks[position].copy()
                flipped[:, column] ^= flipped.dtype.type(1 << bit)
                checks[position] = flipped
                label = f"{name} bit {column * link.check_bits + bit}"
                found.append((label, _error(stored, stored.words, checks, exact)))
    return found


def _error(stored: StoredTensor, words: Words, checks: list[Words], exact: Tensor) -> Tensor:
    read = stored.values_of(stored.decode_words(words, checks)[: stored.elements], None)
    return (_finite(stored, read) - exact).square()


def _finite(stored: StoredTensor, values: Tensor) -> Tensor:
    wide = values.double()
    if bool((wide.abs() <= _BEYOND).all()):
        return wide
    # Not divided by the factor: a NaN is no smaller for having been scaled.
    largest = float(getattr(stored.format, "largest", torch.finfo(torch.float64).max))
    return torch.where(wide.isfinite(), wide, largest).clamp(-_BEYOND, _BEYOND)
