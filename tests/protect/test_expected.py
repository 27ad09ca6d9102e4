"""The predicted error against the error measured by injection, and the factors chosen by it."""

import numpy as np
import pytest
import torch

from faultcli.faults.laws import parse_law
from faultcli.formats import FAMILIES, NAMED, parse_format
from faultcli.memory import MemoryImage
from faultcli.protect.bch import bch_code
from faultcli.protect.chain import Chain, parse_chain
from faultcli.protect.expected import expected_error
from faultcli.protect.factor_search import FactorSearch
from faultcli.protect.scale import Scale

MAPS = 200
BEYOND = 1e140  # of a value whose square float64 could not hold


def weights() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(64, 90, generator=generator) * 0.08


def measured(image: MemoryImage, exact: torch.Tensor, ber: float, maps: int = MAPS) -> float:
    """Mean squared error over fault maps; a read that is not finite counts as the format's largest value."""
    stored = image.tensors["w"]
    clean = stored.read().double()
    base = (clean - exact).square()
    total = maps * float(base.sum())
    law = parse_law(f"bitflip:{ber}")
    for trial in range(maps):
        for touched in image.patch(image.draw(law, seed=1, trial=trial)).elements.values():
            now, was = touched.values.double(), exact.view(-1)[touched.index]
            if not bool(now.isfinite().all()):
                now = torch.where(now.isfinite(), now, float(stored.format.largest))  # type: ignore[attr-defined]
            now = now.clamp(-BEYOND, BEYOND)
            total += float(((now - was).square() - base.view(-1)[touched.index]).sum())
    assert torch.equal(stored.read().double(), clean)
    return total / maps / exact.numel()


def bounded(name: str) -> bool:
    """Whether no flip makes a weight astronomically large, as one in a shared scale does."""
    return parse_format(name).scale_format is None


# The rate is low enough for first order and the tensor large enough for 200 maps to be exact to 2 %. Floats without a
# guard need a lower rate and a larger tensor: nearly all of their error is that of the exponent's top bit, and a second
# flip in the exponent of a word can make it 100 times larger.
EXPONENT = (400, 2e-5)  # repeats of the weights, bit-error rate
GUARDED = (40, 2e-4)
PLAIN = (10, 5e-4)
GROUPED = (16, 2e-4)  # 16 rows of 90 are whole groups


@pytest.mark.parametrize(
    ("format", "chain", "size"),
    [
        *((name, "none", EXPONENT if parse_format(name).bits >= 8 else PLAIN) for name in NAMED if bounded(name)),
        *((name, "none", PLAIN) for family in FAMILIES for name in family.examples if bounded(name)),
        ("fp32", "scale=0.25", EXPONENT),
        ("bf16", "scale=0.25", EXPONENT),
        ("q2.5", "scale=0.25", PLAIN),
        ("q2.5", "scale=3.7", PLAIN),
        ("q2.5", "scale=max", PLAIN),
        ("q2.5", "scale=max:channel", PLAIN),
        ("q0.7", "scale=8", PLAIN),
        ("q3.12", "scale=max", PLAIN),
        ("fp6-e2m3", "scale=max", PLAIN),
        ("fp6-e3m2", "scale=max", PLAIN),
        ("fp4-e2m1", "scale=max", PLAIN),
        ("fp8-e4m3", "scale=max,guard", GUARDED),
        ("fp8-e5m2", "guard", GUARDED),
        ("fp16", "scale=max,guard", GUARDED),
        ("bf16", "scale=max,guard=clamp", GUARDED),
        ("fp32", "scale=max,guard", GUARDED),
        ("fp32", "posterior=1e-4", GUARDED),
        ("q2.5", "scale=max,parity", PLAIN),
        ("q2.5", "scale=max,tmr=msb:2", PLAIN),
        ("q2.5", "scale=max,mset", PLAIN),
        ("q2.5", "scale=max,cep", PLAIN),
        ("q2.5", "scale=max,posterior=2e-3", PLAIN),
        ("int4-g32", "guard", GROUPED),
        ("int8-g16", "guard=clamp:channel", GROUPED),
        ("mxfp4", "guard", GROUPED),
        ("mxfp6-e2m3", "guard,tmr", GROUPED),
        ("nf4", "guard,parity", GROUPED),
    ],
)
def test_prediction_equals_measurement(format: str, chain: str, size: tuple[int, float]) -> None:
    repeats, ber = size
    image = MemoryImage({"w": weights().repeat(1, repeats)}, format, parse_chain(chain), ber)
    exact = weights().repeat(1, repeats if size == GROUPED else 1)  # as far as repeats are alike, one says it all
    small = MemoryImage({"w": exact}, format, parse_chain(chain), ber)
    predicted = float(expected_error(small.tensors["w"], exact, ber).mean())
    found = measured(image, weights().double().repeat(1, repeats), ber)
    assert found == pytest.approx(predicted, rel=0.05)


# Up to t = 2 or 3, many of the blocks beyond correction pass for another code word, which reads as anything.
@pytest.mark.parametrize(
    ("format", "chain", "ber"),
    [
        ("q2.5", "secded=64", 5e-4),
        ("int8", "secded=128", 2e-4),
        ("q2.5", "inplace=2", 0.02),
        ("fp16", "guard,inplace=4", 0.02),
        ("q2.5", "inplace=0.25", 2e-3),
        ("q2.5", "inplace=0.5", 5e-3),
        ("q2.5", "inplace=1", 1e-2),
        ("q2.5", "secded=64", 1e-2),
        ("q2.5", "tmr", 1e-2),
        ("q2.5", "mset", 1e-2),
        ("fp16", "guard,mset,tmr", 1e-2),
        ("q2.5", "parity", 1e-2),
        ("q2.5", "cep", 1e-2),
    ],
)
def test_prediction_where_flips_meet(format: str, chain: str, ber: float) -> None:
    repeats = 40 if ber < 1e-3 else 8
    exact = weights().repeat(1, repeats)
    image = MemoryImage({"w": exact}, format, parse_chain(f"scale=max,{chain}"), ber)
    predicted = float(expected_error(image.tensors["w"], exact, ber).mean())
    found = measured(image, exact.double(), ber, 200 if ber < 1e-3 else 80)  # rates that hit some words in every map
    assert found == pytest.approx(predicted, rel=0.1)


def test_miscorrection_is_what_decoding_gives() -> None:
    """Blocks with more flips than can be corrected, decoded, against the share that the code's size gives."""
    generator = np.random.default_rng(1)
    for t, most in ((1, 1.0), (2, 0.52), (3, 0.19), (4, 0.06)):
        code = bch_code(t)
        for more in (1, 2, 3):
            blocks = np.zeros((4000, 256), dtype=np.uint8)
            for block in blocks:
                block[generator.choice(256, t + more, replace=False)] = 1
            _, lost = code.correct(blocks[:, code.check_bits :], blocks[:, : code.check_bits])
            share = 1 - float(lost.mean())
            assert share <= (most if more == 2 else most / 20)
            expected = float(code.miscorrection(256, np.array([t + more]))[0])
            assert expected == pytest.approx(share, abs=4 * (max(expected, 1e-3) / 4000) ** 0.5)


def test_flips_in_fixed_point_weigh_one_over_the_factor_squared() -> None:
    one = MemoryImage({"w": weights()}, "q2.5").tensors["w"]
    four = MemoryImage({"w": weights()}, "q2.5", parse_chain("scale=4")).tensors["w"]

    def flips(stored: object) -> float:
        total = expected_error(stored, weights(), 1e-3) - expected_error(stored, weights(), 0.0)  # type: ignore[arg-type]
        return float(total.sum())

    assert flips(one) == pytest.approx(16 * flips(four), rel=0.02)


def test_the_best_factor_is_the_best_of_a_fine_grid() -> None:
    format = parse_format("q2.5")
    for chain, step in ((Chain(), 0.1), (parse_chain("posterior=1e-3"), 0.5)):
        search = FactorSearch("w", weights(), format, chain.links, 1e-3)
        best = search.error(torch.tensor([search.best_factor()]))
        grid = [search.error(torch.tensor([2.0 ** (-1 + step * k)])) for k in range(int(9 / step))]
        assert best <= min(grid) * 1.03


def test_factors_for_floats_are_powers_of_two_below_two() -> None:
    stored = MemoryImage({"w": weights()}, "fp32", parse_chain("scale=max")).tensors["w"]
    factor = float(Scale("max").for_tensors({"w": weights()}, lambda name: parse_format("fp32"))["w"].values)
    assert torch.frexp(torch.tensor(factor)).mantissa == 0.5
    assert 1 <= factor * float(weights().abs().max()) < 2
    assert torch.equal(stored.read(), weights())


def test_auto_is_no_worse_than_max_behind_any_chain() -> None:
    for links in ("", ",guard", ",posterior", ",mset", ",inplace=2"):
        errors = {}
        for factor in ("max", "auto"):
            image = MemoryImage({"w": weights()}, "q2.5", parse_chain(f"scale={factor}{links}"), 1e-3)
            errors[factor] = float(expected_error(image.tensors["w"], weights(), 1e-3).mean())
        assert errors["auto"] <= errors["max"] * 1.02
