"""The binary symmetric channel that a word passes through: every bit flips independently with the bit-error rate."""

from __future__ import annotations

import torch
from torch import Tensor


def through(table: Tensor, bits: int, ber: float) -> Tensor:
    """Return, for every word v, the mean of `table` over the words that v can turn into.

    The channel factorises over bits, so this takes one pass per bit instead of 2^bits. It is its own transpose: applied
    to a prior it gives the distribution of the words read.

    Args:
        table: float64 [..., 2^bits], indexed by word.
        bits: bits of a word.
        ber: probability that a bit flips.
    """
    out = table
    for bit in range(bits):
        pairs = out.reshape(*table.shape[:-1], -1, 2, 1 << bit)
        zero, one = pairs[..., 0, :], pairs[..., 1, :]
        mixed = torch.stack([(1 - ber) * zero + ber * one, (1 - ber) * one + ber * zero], dim=-2)
        out = mixed.reshape(table.shape)
    return out
