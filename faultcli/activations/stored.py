"""Outputs of layers as they lie in a memory: rounded to its format where that is another one, hit, and read back.

In the native format only what is hit is touched; in any other every output is rounded as it would be on its way through
such a memory. That rounding is the same with and without faults, so that it counts as storing and not as damage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from faultcli.activations.layers import (
    Given,
    SeenOutputs,
    leaves,
    listening,
    shares_memory,
    tensor_of,
    with_tensor,
    writes_over,
)
from faultcli.errors import FaultError, WorkloadError
from faultcli.faults.law import FaultLaw
from faultcli.faults.laws import BitFlip
from faultcli.faults.maps import Layout, WordFaults, combine
from faultcli.faults.sampling import RowStream, bernoulli_rows
from faultcli.formats import NATIVE, NumberFormat, ScaledFormat, bit_positions, container_dtype, parse_format
from faultcli.formats.floats import FloatFormat

_AHEAD, _AHEAD_FLIPS = 2048, 100_000  # inputs whose flips are drawn at once, and flips that may be kept
_OWN = {f.native: f for f in NATIVE.values() if isinstance(f, FloatFormat)}


@dataclass
class ActivationHit:
    """What the faults of one run did, as far as it came: flipped bits, and values that read differently."""

    flips: int = 0
    values_changed: int = 0


@dataclass(frozen=True)
class LayerOutputs:
    """Where faults can hit: the outputs of one layer for all inputs, as a `faults.law.Site`."""

    name: str
    format: NumberFormat
    elements: int  # numbers, in all calls for all inputs
    native: bool  # the format is that of the values themselves
    holds_values: bool = True

    @property
    def tensor(self) -> str:
        """The name that laws and globs know it by."""
        return self.name

    @property
    def layout(self) -> Layout:
        """Words and their bits."""
        return Layout(self.elements, self.format.bits)

    def positions(self, bits: str) -> tuple[int, ...]:
        """Bit positions that a bit specification stands for."""
        return bit_positions(self.format, bits)


@dataclass(frozen=True)
class ActivationMemory:
    """The outputs of layers, each for as long as one inference needs it. Plain data: the model is named when it runs.

    Attributes:
        layers: those at risk, by name.
        glob: what they were selected by.
        inputs: how many the model ran on when it was looked at.
    """

    layers: Mapping[str, LayerOutputs]
    glob: str = "*"
    inputs: int = 0

    @classmethod
    def of(
        cls, seen: SeenOutputs, format: str = "native", *, bounds: Mapping[str, tuple[float, float]] | None = None
    ) -> ActivationMemory:
        """Return the memory of outputs that were seen in a run over all inputs.

        Args:
            seen: what layers gave.
            format: number format; `native`: that of the values themselves.
            bounds: the smallest and the largest value of every layer, for formats with a scale.
        """
        layers = {}
        for name, elements in seen.elements.items():
            own = _OWN[seen.dtypes[name]]
            chosen = own if format == "native" else parse_format(format)
            native = chosen == own
            if isinstance(chosen, ScaledFormat):
                known = (bounds or {}).get(name, (0.0, 0.0))
                chosen = chosen.fitted(torch.tensor([max(-known[0], known[1])], dtype=torch.float32))
            layers[name] = LayerOutputs(name, chosen, elements, native)
        return cls(layers, seen.glob, seen.inputs)

    @property
    def bits(self) -> int:
        """Stored bits of all outputs for all inputs."""
        return sum(layer.elements * layer.format.bits for layer in self.layers.values())

    @property
    def rounds(self) -> bool:
        """Whether storing changes what the model computes."""
        return not all(layer.native for layer in self.layers.values())

    @contextmanager
    def stored(self, model: nn.Module) -> Iterator[None]:
        """Round what layers give to the format, for the length of a `with` block, without faults."""
        if not self.rounds:
            yield
            return
        with listening(model, self._modules(model), self._visit(model, None)):
            yield

    @contextmanager
    def faulty(self, model: nn.Module, law: FaultLaw, *, seed: int = 0, trial: int = 0) -> Iterator[ActivationHit]:
        """Let bits flip in what layers give, for the length of a `with` block; nothing stays behind.

        The flips of an input depend on seed, trial, law, layer (and which of its calls it is) and on the number of the
        input, and on nothing else: not on the batch that it is in, nor on the device. Inputs are numbered as the model
        is called with them, from 0.

        Args:
            model: the model; called by whatever runs in the block.
            law: bit flips at a rate.
            seed, trial: fix the faults.

        Raises:
            FaultError: the law covers none of the layers.
        """
        assert isinstance(law, BitFlip)
        if not any(law.covers(layer) for layer in self.layers.values()):
            raise FaultError(
                f"{law.spec}: matches none of the layers at risk", f"they are: {', '.join(list(self.layers)[:6])}"
            )
        hit, flips = ActivationHit(), _Flips(law, seed, trial, self.inputs)

        def draw(given: Given, elements: int) -> WordFaults:
            drawn = flips.of(self.layers[given.layer], given, elements)
            hit.flips += int(np.bitwise_count(drawn.masks).sum())
            return drawn

        with listening(model, self._modules(model), self._visit(model, draw, hit)):
            yield hit

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        return {name: module for name, module in leaves(model, self.glob).items() if name in self.layers}

    def _visit(
        self,
        model: nn.Module,
        draw: Callable[[Given, int], WordFaults] | None,
        hit: ActivationHit | None = None,
    ) -> Callable[[Given], object]:
        kept = frozenset(tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers()))

        def visit(given: Given) -> object:
            layer, old = self.layers[given.layer], tensor_of(given.output)
            if old is None or not old.dim() or len(old) != given.inputs:
                raise WorkloadError(
                    f"layer {given.layer!r}: gives something else under faults than without", "leave this layer out"
                )
            faults = None if draw is None or not given.inputs else draw(given, old.numel() // given.inputs)
            if layer.native and (faults is None or not len(faults.words)):
                return None
            values = old if _own_memory(old, given, kept) else old.clone(memory_format=torch.contiguous_format)
            changed = write(values, layer, faults)
            if hit is not None:
                hit.values_changed += changed
            return None if values is old else with_tensor(given.output, old, values)

        return visit


class _Flips:
    """The flips of one trial, drawn for many inputs ahead, which costs little more than for a few.

    Args:
        law, seed, trial: fix the faults.
        inputs: how many there will be, as far as that is known.
    """

    def __init__(self, law: BitFlip, seed: int, trial: int, inputs: int) -> None:
        self._law, self._which, self._inputs = law, {"seed": seed, "trial": trial}, inputs
        self._ahead: dict[tuple[str, int], tuple[Given, int, WordFaults]] = {}

    def of(self, layer: LayerOutputs, given: Given, elements: int) -> WordFaults:
        """Return the flips in what a layer gave, as `drawn_flips`."""
        place, end = (layer.name, given.call), given.first + given.inputs
        known = self._ahead.get(place)
        if (
            known is None
            or known[1] != elements
            or not known[0].first <= given.first <= end <= known[0].first + known[0].inputs
        ):
            most = int(_AHEAD_FLIPS / max(1.0, elements * layer.format.bits * self._law.rate))
            inputs = max(given.inputs, min(_AHEAD, most, self._inputs - given.first))
            block = Given(layer.name, given.call, given.first, inputs, given.module, (), None)
            known = self._ahead[place] = block, elements, drawn_flips(self._law, layer, block, elements, **self._which)
        block, _, drawn = known
        start, stop = ((at - block.first) * elements for at in (given.first, end))
        low, high = np.searchsorted(drawn.words, (start, stop))
        return WordFaults(drawn.words[low:high] - start, drawn.masks[low:high])


def drawn_flips(law: BitFlip, layer: LayerOutputs, given: Given, elements: int, *, seed: int, trial: int) -> WordFaults:
    """Draw the flips in what a layer gave: words are elements of the output, row-major.

    Args:
        law: at which rate.
        layer: whose output it is.
        given: which inputs it is for.
        elements: numbers per input.
        seed, trial: fix the faults.
    """
    eligible = law.eligible(layer) if law.covers(layer) else ()
    stream = RowStream("faultcli", "activations", seed, trial, law.key, layer.name, given.call, layer.format.bits)
    rows, positions = bernoulli_rows(stream, given.first, given.inputs, elements * len(eligible), law.rate)
    words, which = np.divmod(positions, max(1, len(eligible)))
    masks = np.left_shift(np.uint64(1), np.array(eligible, dtype=np.uint64))[which]
    return combine(rows * elements + words, masks)


def write(values: Tensor, layer: LayerOutputs, faults: WordFaults | None) -> int:
    """Store values and read them back, in place; return how many read differently because of the faults.

    Formats without codes for NaN and infinities store NaN as 0, and infinities as their largest values.
    """
    with torch.no_grad():
        if layer.native:
            assert faults is not None
            words = _words(values)
            index, masks = _on(values.device, faults, words.dtype)
            if words.is_contiguous():
                words.view(-1)[index] ^= masks
            else:
                words[torch.unravel_index(index, words.shape)] ^= masks
            return len(index)
        codes, format = _coded(values, layer.format)
        changed = 0
        if faults is not None and len(faults.words):
            index, masks = _on(values.device, faults, codes.dtype)
            hit = codes[index]
            before, after = (_words(format.decode(some).to(values.dtype)) for some in (hit.clone(), hit ^ masks))
            changed = int((before != after).sum())
            codes[index] = hit ^ masks
        values.copy_(format.decode(codes).view(values.shape))
        return changed


def _words(values: Tensor) -> Tensor:
    """Return values as the bits that they are."""
    return values.detach().view(container_dtype(8 * values.itemsize))


def _coded(values: Tensor, format: NumberFormat) -> tuple[Tensor, NumberFormat]:
    """Return the codes of values, flat, and the format that reads them."""
    flat = values.detach().reshape(-1)
    codec = format.element if isinstance(format, ScaledFormat) else format
    if isinstance(format, ScaledFormat):
        format = replace(format, row_words=flat.numel())
    if not isinstance(codec, FloatFormat) or codec.infinity_code is None:
        has_nan = codec is format and isinstance(codec, FloatFormat) and codec.nan_code is not None
        flat = flat.nan_to_num(nan=math.nan if has_nan else 0.0)
    codes = format.encode(flat)
    return (codes.clone() if codes.data_ptr() == values.data_ptr() else codes), format


def _own_memory(tensor: Tensor, given: Given, kept: frozenset[int]) -> bool:
    """Whether an output may be written to: nothing but the layer's output lies there."""
    dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    if not dense or tensor.requires_grad or tensor.untyped_storage().data_ptr() in kept:
        return False
    return writes_over(given.module) or not shares_memory(tensor, given.arguments)


def _on(device: torch.device, faults: WordFaults, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return words and masks as tensors, masks in the dtype of codes."""
    unsigned = faults.masks.astype(f"<u{dtype.itemsize}")
    masks = torch.from_numpy(unsigned if dtype.itemsize == 1 else unsigned.view(f"<i{dtype.itemsize}"))
    return torch.from_numpy(faults.words).to(device), masks.to(device)
