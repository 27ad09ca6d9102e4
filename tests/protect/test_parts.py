"""A tensor that is written and read some rows at a time is the one that is written and read as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from faultcli.errors import FormatError
from faultcli.formats import format_for, values
from faultcli.protect import encoding, parts
from faultcli.protect.base import Fitted, Protection, Words, Written
from faultcli.protect.chain import parse_chain
from faultcli.protect.factors import Factors
from faultcli.protect.protected_tensor import StoredTensor

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float8_e4m3fn: "F8_E4M3"}
SHAPES = [(41, 24), (7, 5, 9), (1001,), (1, 640), (640, 1)]
TILE = 128


def written(weights: Tensor, format: str, chain: str | Sequence[Protection]) -> StoredTensor:
    made = format_for(format, _NAMES[weights.dtype])
    links: Sequence[Protection] = (
        chain
        if not isinstance(chain, str)
        else (parse_chain(chain).for_tensors({"w": weights}, lambda _: made, 1e-3)["w"])
    )
    return StoredTensor.write("w", weights, made, links, ber=1e-3)


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cut tensors into parts of 128 elements; returns the list of how many elements formats were given at once."""
    seen: list[int] = []
    reals = encoding.exact_reals

    def watched(weights: Tensor, name: str) -> Tensor:
        seen.append(weights.numel())
        return reals(weights, name)

    for module in (values, parts):
        monkeypatch.setattr(module, "TILE", TILE)
    monkeypatch.setattr(encoding, "exact_reals", watched)
    return seen


def assert_same(one: StoredTensor, other: StoredTensor) -> None:
    assert [region.layout for region in one.regions] == [region.layout for region in other.regions]
    np.testing.assert_array_equal(one.words, other.words)
    for own, others in zip(one.checks, other.checks, strict=True):
        np.testing.assert_array_equal(own, others)
    if one.scales is not None and other.scales is not None:
        np.testing.assert_array_equal(one.scales.words, other.scales.words)
    for link, link_of_other in zip(one.links, other.links, strict=True):
        found, wanted = link.constants(), link_of_other.constants()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(torch.as_tensor(found[key]), torch.as_tensor(wanted[key])) for key in found)
    assert torch.equal(as_words(one.read()), as_words(other.read()))


def as_words(read: Tensor) -> Tensor:
    return read.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("format", "chain"),
    [
        ("native", "scale=max"),
        ("native", "guard=zero:channel,inplace=2"),
        ("fp16", "none"),
        ("q2.5", "scale=max:channel,guard,inplace=2"),
        ("q2.5", "scale=3,posterior=1e-3:channel,mset"),
        ("int8", "secded=64"),
        ("int8-channel", "scale=2,posterior=1e-3,inplace=2"),
        ("int4-g128", "parity"),
        ("int4-g20", "scale=max,secded=64"),
        ("mxfp8-e4m3", "tmr"),
        ("fp8-e4m3-tensor", "guard"),
        ("nf4", "none"),
    ],
)
def test_parts_make_the_whole(format: str, chain: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        weights = (torch.randn(shape, generator=generator) * 0.3).to(dtype)
        whole = written(weights, format, chain)
        wanted = whole.read().clone()
        with monkeypatch.context() as patched:
            seen = small_tiles(patched)
            in_parts = written(weights, format, chain)
            assert_same(in_parts, whole)
            out = torch.zeros_like(weights)
            assert in_parts.read(out) is out
        assert torch.equal(as_words(out), as_words(wanted))
        if len(shape) == 2 and shape[0] > 1 and "posterior" not in chain and format not in ("native", "fp16"):
            assert seen  # formats that need reals were asked for them
            assert max(seen) <= 4 * TILE  # and never for the whole tensor


def test_the_whole_is_refused_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.ones(41, 24)
    weights[3, 3], weights[40, 0], weights[20, 5] = torch.nan, torch.inf, torch.nan
    small_tiles(monkeypatch)
    for format in ("q2.5", "int8-channel", "int4-g128"):
        with pytest.raises(FormatError, match="tensor 'w' holds 2 NaN and 1 infinite values; "):
            written(weights, format, "none")
    with pytest.raises(FormatError, match="tensor 'w' holds 1 infinite value; fp8-e4m3 cannot store it"):
        written(weights, "fp8-e4m3", "none")


class Reversed(Protection):
    """A link that has to see the whole tensor: it turns it around."""

    name = "reversed"
    examples = overhead = summary = ""
    rank = Protection.VALUE

    def write_values(self, values: Tensor) -> Tensor:
        return values.flip(0)

    def fit(self, written: Written) -> Fitted:
        assert written.values.shape == written.shape
        return _Turned()


class _Turned(Fitted):
    def read_values(self, values: Tensor, words: Words, index: Tensor | None, units: Tensor | None) -> Tensor:
        assert index is None
        return values.flip(0)


def test_a_link_that_sees_the_whole_tensor_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    weights = torch.arange(41.0 * 24).view(41, 24)
    stored = written(weights, "fp32", [Reversed()])
    assert torch.equal(stored.read(), weights)
    assert stored.words.view(np.float32)[0] == 40 * 24


def test_parts_of_a_scaled_checkpoint_are_divided_by_their_own_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.randn(41, 24, generator=torch.Generator().manual_seed(1))
    constants = torch.linspace(0.5, 3, 41)
    factors = Factors(constants, 16, multiplied=weights * constants[:, None])
    whole = written(weights, "q2.5", [factors]).read().clone()
    small_tiles(monkeypatch)
    assert torch.equal(written(weights, "q2.5", [factors]).read(), whole)
