"""What reading a damaged tensor should give and count: the slow way, by what `StoredTensor` reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from device import Status
from numpy.typing import NDArray

from faultcli.formats import ScaledFormat
from faultcli.protect.base import Fitted, Words, codes_of
from faultcli.protect.protected_tensor import StoredTensor

Memory = dict[str, NDArray[Any]]  # words by region


def damaged(stored: StoredTensor, memory: Memory) -> StoredTensor:
    """The tensor as it is once its regions hold these words; scales too."""
    words = memory[stored.name].copy()
    if len(stored.words) > stored.elements:
        padding = memory.get(f"{stored.name}#padding", stored.words[stored.elements :])
        words = np.concatenate([words, padding])
    checks = [
        memory[f"{stored.name}#{name}"].reshape(own.shape) if link.per_block else own
        for link, name, own in zip(stored.links, stored.names, stored.checks, strict=True)
    ]
    found = dataclasses.replace(stored, words=words, checks=tuple(checks))
    if stored.scales is None:
        return found
    scales = damaged(stored.scales, memory)
    assert isinstance(stored.format, ScaledFormat)
    return dataclasses.replace(found, scales=scales, format=dataclasses.replace(stored.format, scales=scales.read()))


def words_read(stored: StoredTensor) -> Words:
    """The elements' words as the links leave them."""
    return stored.decode_words(stored.words, stored.checks)[: stored.elements]


def counted(stored: StoredTensor) -> Status:
    """What reading the whole tensor should count, from first principles: distances between words."""
    corrected = lost = replaced = 0
    words, named = stored.words, dict(zip(stored.names, zip(stored.links, stored.checks, strict=True), strict=True))
    block = named["inplace"][0].block if "inplace" in named else 1
    needed = -(-stored.elements // block) * block
    for name in ("parity", "tmr", "secded"):
        if name in named:
            link, checks = named[name]
            before = words.reshape(-1, link.block)
            after = link.read_words(before, checks)
            used = -(-needed // link.block)
            fixed, gone = _of_checks(name, link, before[:used], after[:used], checks[:used])
            corrected, lost, words = corrected + fixed, lost + gone, after.reshape(-1)
    for name in ("mset", "cep", "inplace"):
        if name in named:
            link = named[name][0]
            before = words.reshape(-1, link.block)[: needed // link.block]
            fixed, gone = _of_words(name, link, before)
            corrected, lost = corrected + fixed, lost + gone
            words = link.read_words(words.reshape(-1, link.block), np.empty((0, 0), np.uint8)).reshape(-1)
    if "guard" in named and stored.elements:
        values = stored.format.decode(codes_of(words[: stored.elements]).view(stored.shape))
        bounds = named["guard"][0].bounds.to(values.dtype).clamp(max=torch.finfo(values.dtype).max)
        bounds = bounds.view(-1, *[1] * (values.dim() - 1)) if len(bounds) > 1 else bounds
        replaced = int((~(values.abs() <= bounds)).sum())
    if stored.scales is not None and stored.elements:
        own = counted(stored.scales)
        corrected, lost = corrected + own.corrected, lost + own.lost
    return Status(corrected, lost, replaced)


def _of_checks(name: str, link: Fitted, before: Words, after: Words, checks: Words) -> tuple[int, int]:
    if name == "parity":
        return 0, int((np.bitwise_count(before) % 2 != checks).sum())
    if name == "tmr":
        voted = link.checks(after)[:, :1]
        own = link.checks(before)[:, :1]
        return int(np.bitwise_count(own ^ voted | checks[:, :1] ^ voted | checks[:, 1:] ^ voted).sum()), 0
    distance = _ones(before ^ after) + _ones(link.checks(after) ^ checks)
    beyond = distance > 1
    kept = link.zero is None  # type: ignore[attr-defined]
    return int(distance[~beyond].sum()), 0 if kept else int(beyond.sum())


def _of_words(name: str, link: Any, before: Words) -> tuple[int, int]:
    none = np.empty((len(before), 0), dtype=np.uint8)
    after = link.read_words(before, none)
    if name == "mset":
        votes = sum((before >> at & 1).astype(int) for at in (link.position, 0, 1))
        return int((votes % 3 != 0).sum()), 0
    if name == "cep":
        odd = [np.bitwise_count(before & before.dtype.type(m)) & 1 != before >> k & 1 for k, m in enumerate(link.masks)]
        return 0, int(sum(wrong.sum() for wrong in odd))
    distance = _ones(before ^ link.write_words(after))
    beyond = distance > link.code.t
    return int(distance[~beyond].sum()), int(beyond.sum())


def _ones(blocks: Words) -> NDArray[np.int64]:
    return np.bitwise_count(blocks).sum(axis=tuple(range(1, blocks.ndim))).astype(np.int64)
