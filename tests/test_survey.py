"""Statistics of a tensor, whichever way they are counted."""

import math

import pytest
import torch

from faultcli import survey


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int16])
@pytest.mark.parametrize("broken", [False, True])
def test_words_of_16_bits_are_counted_as_values_are(dtype: torch.dtype, broken: bool) -> None:
    values = (torch.randn(70_000, generator=torch.Generator().manual_seed(1)) * 300).to(dtype)
    if broken and dtype.is_floating_point:
        values[:3] = torch.tensor([math.nan, math.inf, -math.inf]).to(dtype)
    counted = survey._statistics(values)
    low, high, std, nonfinite = survey._statistics(values.double())
    assert counted[0] == low
    assert counted[1] == high
    assert counted[2] == pytest.approx(std, rel=1e-12)
    assert counted[3] == nonfinite == (3 if broken and dtype.is_floating_point else 0)


def test_nothing_finite_has_no_statistics() -> None:
    assert survey._statistics(torch.full((70_000,), math.nan, dtype=torch.bfloat16)) == (None, None, None, 70_000)
