"""The bit-error rate of a memory, estimated from what was read: no test pattern, no extra bits.

Where blocks are corrected, the corrections are counted. Elsewhere the words themselves tell: flips turn likely words
into unlikely ones, and the prior of a posterior read says how likely each was.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from faultcli.protect.base import Words
from faultcli.protect.channel import through
from faultcli.protect.inplace import FittedInPlace
from faultcli.protect.posterior import FittedPosterior
from faultcli.protect.protected_tensor import StoredTensor

_GRID = np.geomspace(1e-7, 0.2, 190)


def estimate_ber(tensors: list[tuple[StoredTensor, Words]]) -> float | None:
    """Return the bit-error rate that explains best what was read; None where nothing in the chain can tell.

    Args:
        tensors: stored tensors of one memory, each with the words that were read, padding included.
    """
    corrected = bits = 0
    log_likelihood: NDArray[np.float64] = np.zeros(len(_GRID))
    told = False
    for stored, words in tensors:
        for link in stored.links:
            if isinstance(link, FittedInPlace):
                found, seen = link.count_flips(words.reshape(-1, link.block))
                corrected, bits = corrected + found, bits + seen
            elif isinstance(link, FittedPosterior):
                log_likelihood += _likelihoods(link, words[: stored.elements])
                told = True
    if bits:
        return corrected / bits
    return float(_GRID[int(log_likelihood.argmax())]) if told else None


def _likelihoods(link: FittedPosterior, words: Words) -> NDArray[np.float64]:
    """Return the log-likelihood of the words read, for every rate of the grid."""
    top = (words >> link.dropped).astype(np.int64)
    several = len(link.class_of_group) > 1
    row = link.class_of(torch.arange(len(top))).numpy() if several else np.zeros(len(top), np.int64)
    counts = np.zeros(link.prior.shape)
    np.add.at(counts, (row, top), 1)
    seen = torch.from_numpy(counts)
    rates = (through(link.prior, link.bits, float(rate)).clamp(min=math.ulp(0.0)).log() for rate in _GRID)
    return np.array([float((seen * rate).sum()) for rate in rates])
