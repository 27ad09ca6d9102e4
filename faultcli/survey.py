"""What a checkpoint holds, tensor by tensor, and how much of it would lie in the memory at risk."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, split

from faultcli.checkpoint import Checkpoint, TensorInfo, torch_dtype
from faultcli.errors import FormatError
from faultcli.formats import NATIVE, format_for
from faultcli.formats.values import TILE


@dataclass(frozen=True)
class TensorSurvey:
    """One tensor. The statistics are over its finite values, in float64; None where there are none, torch lacks the
    dtype, or squares overflow."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    at_risk: bool  # selected
    word_bits: int | None  # bits per stored word in the format asked for; None: the format cannot store this dtype
    low: float | None
    high: float | None
    std: float | None
    nonfinite: int  # NaN and infinite values
    scale_bits: int = 0  # of all scales that lie in the memory
    role: str | None = None  # in a quantised weight
    stored_as: str | None = None  # the type of the blocks that it is a field of, or of a tensor that is not read

    @property
    def bits(self) -> int:
        """Stored bits at risk."""
        return self.elements * (self.word_bits or 0) + self.scale_bits if self.at_risk else 0


def survey(
    checkpoint: Checkpoint,
    selected: Collection[str],
    format_name: str = "native",
    progress: Callable[[int], None] = lambda done: None,
    look: Callable[[TensorInfo, Tensor], None] = lambda info, words: None,
) -> Iterator[TensorSurvey]:
    """Yield a checkpoint's tensors in file order, one in memory at a time. `look` is called with those that are
    selected, as the file holds them; `progress` gets the bytes done."""
    for info in checkpoint.tensors.values():
        at_risk = info.name in selected
        yield _survey(checkpoint, info, at_risk, format_name, look if at_risk else None)
        progress(info.nbytes)


def _survey(
    checkpoint: Checkpoint,
    info: TensorInfo,
    at_risk: bool,
    format_name: str,
    look: Callable[[TensorInfo, Tensor], None] | None,
) -> TensorSurvey:
    word_bits, scale_bits = None, 0
    try:
        format = format_for(format_name, info.dtype)
        word_bits = format.bits
        channels = checkpoint.channels.get(info.name)
        rows = info.shape if channels is None else channels.shape
        scale_bits = format.scale_format.bits * format.scale_words(rows) if format.scale_format else 0
    except FormatError:  # words of no number lie as they are in the file, and in no other format
        if format_name == "native":
            word_bits = 8 * info.nbytes // max(1, math.prod(info.shape))
    low = high = std = None
    nonfinite = 0
    if info.unread is None and torch_dtype(info.dtype) is not None and info.dtype not in ("F4", "C64"):
        words = checkpoint.read(info.name)
        low, high, std, nonfinite = _statistics(words)
        if look is not None and info.dtype in NATIVE:
            look(info, words)
    elements = math.prod(info.shape)
    stored_as = info.unread if info.field is None else info.field.block
    found = TensorSurvey(info.name, info.dtype, info.shape, elements, at_risk, word_bits, low, high, std, nonfinite)
    return replace(found, scale_bits=scale_bits, stored_as=stored_as)


def _statistics(tensor: Tensor) -> tuple[float | None, float | None, float | None, int]:
    """Return least, greatest, standard deviation of the finite values, and the number of the others."""
    if tensor.element_size() == 2 and tensor.numel() > len(_CODES):
        return _statistics_of_codes(tensor)
    low, high, count, nonfinite = math.inf, -math.inf, 0, 0
    mean = squares = 0.0
    for chunk in split(tensor.reshape(-1), TILE):
        values = chunk.double()
        total = float(values.sum())
        if not math.isfinite(total):  # a mask costs ten times what it saves where all values are finite
            finite = values[values.isfinite()]
            nonfinite += len(values) - len(finite)
            values, total = finite, float(finite.sum())
        if not len(values):
            continue
        least, greatest = values.aminmax()
        low, high = min(low, float(least)), max(high, float(greatest))
        # Chan, Golub and LeVeque 1983: joins two means and sums of squares without loss of digits.
        n, chunk_mean = len(values), float(values.mean())
        step = chunk_mean - mean
        values = values.sub_(chunk_mean) if values.data_ptr() != chunk.data_ptr() else values - chunk_mean
        squares += float(values.dot(values)) + step * step * count * n / (count + n)
        mean += step * n / (count + n)
        count += n
    if not count:
        return None, None, None, nonfinite
    return low, high, math.sqrt(squares / count) if math.isfinite(squares) else None, nonfinite


_CODES = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)  # all words of 16 bits


def _statistics_of_codes(tensor: Tensor) -> tuple[float | None, float | None, float | None, int]:
    """As `_statistics`, from how often each of the 65,536 words occurs: a third of the time."""
    words = tensor.reshape(-1).view(torch.int16).numpy().view(np.uint16)
    counts = sum(np.bincount(words[at : at + TILE], minlength=len(_CODES)) for at in range(0, len(words), TILE))
    values = _CODES.view(tensor.dtype).double().numpy()
    counts = np.roll(counts, len(_CODES) // 2)  # the words from 0 on, in the order of _CODES
    finite = np.isfinite(values)
    nonfinite = int(counts[~finite].sum())
    found = finite & (counts > 0)
    if not found.any():
        return None, None, None, nonfinite
    values, counts = values[found], counts[found]
    mean = np.average(values, weights=counts)
    return (
        float(values.min()),
        float(values.max()),
        math.sqrt(float(np.average((values - mean) ** 2, weights=counts))),
        nonfinite,
    )
