"""The memory image against the slow, obvious way: corrupt every code, decode everything."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faultcli.errors import FaultError, FormatError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap, WordFaults
from faultcli.formats import NumberFormat, ScaledFormat, parse_format
from faultcli.memory import MemoryImage
from faultcli.protect.base import codes_of, words_of
from faultcli.protect.chain import parse_chain

FORMATS = ["native", "fp32", "fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp4-e2m1", "q2.5", "q7.24", "int8"]
FORMATS += ["int4-channel", "int4-g32", "fp8-e5m2-tensor", "mxfp8-e4m3", "mxfp6-e3m2", "mxfp4", "nf4"]


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "conv.weight": torch.randn(8, 3, 3, 3, generator=generator).to(dtype),
        "fc.weight": torch.randn(10, 50, generator=generator).to(dtype),
    }


def slow_read(values: torch.Tensor, format: str, faults: FaultMap, name: str) -> torch.Tensor:
    """Encode everything, flip bit by bit, decode everything."""
    fitted = (MemoryImage({name: values}, format).tensors[name].format).fitted(values)
    codes = flipped(fitted.encode(values), fitted.bits, faults, name)
    if isinstance(fitted, ScaledFormat) and fitted.scale_format is not None:
        assert fitted.scales is not None
        words = flipped(fitted.store.encode(fitted.scales), fitted.store.bits, faults, f"{name}#scale")
        fitted = dataclasses.replace(fitted, scales=fitted.store.decode(words))
    return fitted.decode(codes)


def flipped(codes: torch.Tensor, bits: int, faults: FaultMap, region: str) -> torch.Tensor:
    words = [int(word) for word in words_of(codes)]
    if region in faults.faults:
        hit = faults.faults[region]
        for word, mask in zip(hit.words.tolist(), hit.masks.tolist(), strict=True):
            for bit in range(bits):
                if mask >> bit & 1:
                    words[word] ^= 1 << bit
    return codes_of(np.array(words, dtype=words_of(codes).dtype)).view(codes.shape)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("law", ["bitflip:0.02", "stuck-at-1:0.05", "zero:0.3", "gaussian:0.2", "burst:0.01,length=3"])
def test_patched_model_equals_decoding_everything(format: str, law: str) -> None:
    tensors = weights()
    image = MemoryImage(tensors, format)
    state = {name: values.to(torch.float32, copy=True) for name, values in image.values()}
    for trial in range(3):
        before = {name: values.clone() for name, values in state.items()}
        faults = image.draw(parse_law(law), seed=5, trial=trial)
        patch = image.patch(faults)
        with patch.applied(state):
            for name, values in tensors.items():
                expected = slow_read(values, format, faults, name).to(torch.float32)
                assert same_bits(state[name].nan_to_num(7e9), expected.nan_to_num(7e9))
            changed = sum(
                int((words_of(state[n].view(torch.int32)) != words_of(before[n].view(torch.int32))).sum())
                for n in state
            )
            assert patch.values_changed >= changed  # a change too small for float32 counts too
        assert all(same_bits(state[name], before[name]) for name in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_native_is_the_tensors_own_dtype(dtype: torch.dtype) -> None:
    tensors = weights(dtype)
    image = MemoryImage(tensors)
    assert image.bits == sum(8 * t.element_size() * t.numel() for t in tensors.values())
    for name, values in image.values():
        assert torch.equal(values.double(), tensors[name].double())


def test_a_model_is_bit_identical_after_many_trials_even_with_exceptions() -> None:
    image = MemoryImage(weights(), "fp16")
    state = {name: values.clone() for name, values in image.values()}
    state["conv.weight"][0, 0, 0, 0] = float("nan")  # what a trial finds is what it leaves
    before = {name: values.clone() for name, values in state.items()}
    law = parse_law("bitflip:0.01")
    for trial in range(50):
        with pytest.raises(ZeroDivisionError), image.patch(image.draw(law, seed=0, trial=trial)).applied(state):
            raise ZeroDivisionError
    assert all(same_bits(state[name], before[name]) for name in state)


def test_a_patch_lists_changed_values_only() -> None:
    image = MemoryImage({"w": torch.zeros(100)}, "q2.5")
    untouched = image.draw(parse_law("bitflip:0"), seed=0, trial=0)
    assert image.patch(untouched).values_changed == 0
    int8 = MemoryImage({"w": torch.ones(100)}, "int8")
    everything = int8.patch(int8.draw(parse_law("flips:800"), seed=0, trial=0))
    assert everything.values_changed == 100


AT_RISK = {"fp8-e4m3-tensor": (2, 32), "mxfp4": (8 + 20, 8), "nf4": (4 + 8, 32), "int4-g16": (16 + 40, 16)}


@pytest.mark.parametrize("format", AT_RISK)
def test_scales_are_bits_at_risk_and_no_overhead_of_a_protection(format: str) -> None:
    image = MemoryImage(weights(), format)
    bits = parse_format(format).bits * (216 + 500)
    words, width = AT_RISK[format]
    assert image.bits == bits + width * words
    assert image.overhead_bits_per_weight == 0
    assert {region.name for region in image.regions if not region.holds_values} == {
        "conv.weight#scale",
        "fc.weight#scale",
    }


def test_a_flipped_scale_touches_its_group_and_nothing_else() -> None:
    image = MemoryImage({"w": torch.ones(3, 70)}, "mxfp4")  # groups of 32, 32 and 6 in every row
    for word, (first, last) in {0: (0, 32), 2: (64, 70), 3: (70, 102), 8: (204, 210)}.items():
        hit = WordFaults(np.array([word]), np.array([1], dtype=np.uint64))
        touched = image.patch(FaultMap({"w#scale": hit}, image.layout)).elements["w"]
        assert touched.index.tolist() == list(range(first, last))
        assert touched.values.unique().tolist() == [0.5]  # 2^(125 - 127) · 4 became 2^(124 - 127) · 4
    nan = WordFaults(np.array([8]), np.array([0xFF ^ 125], dtype=np.uint64))
    assert image.patch(FaultMap({"w#scale": nan}, image.layout)).elements["w"].values.isnan().all()


def test_a_patch_decodes_what_it_touches_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    image = MemoryImage({"w": torch.ones(200, 1024)}, "mxfp8-e4m3")
    element, decoded = type(image.tensors["w"].format.element), []
    plain = element.decode

    def counting(self: NumberFormat, codes: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        decoded.append(codes.numel())
        return plain(self, codes, index)

    monkeypatch.setattr(element, "decode", counting)
    one = np.array([1, 1], dtype=np.uint64)
    for region, elements in (("w", 2), ("w#scale", 2 * 32)):
        decoded.clear()
        hit = WordFaults(np.array([5, 6_000]), one)
        assert image.patch(FaultMap({region: hit}, image.layout)).values_changed == elements
        assert decoded == [elements, elements]  # without and with the faults


def test_bits_of_scales_are_named_scale() -> None:
    image = MemoryImage(weights(), "int4-g16")

    def regions(spec: str) -> set[str]:
        return {name.partition("#")[2] for name in image.draw(parse_law(spec), seed=0, trial=0).faults}

    assert regions("bitflip:0.1") == {"", "scale"}
    assert regions("bitflip:0.1,bits=msb") == {""}
    assert regions("bitflip:0.1,bits=scale") == {"scale"}
    assert regions("bitflip:0.1,bits=sign+scale:exponent") == {"", "scale"}
    assert regions("zero:0.5") == regions("gaussian:0.5") == {""}
    faults = image.draw(parse_law("bitflip:1,bits=sign+scale:sign"), seed=0, trial=0).faults
    assert set(faults["fc.weight"].masks.tolist()) == {1 << 3}
    assert set(faults["fc.weight#scale"].masks.tolist()) == {1 << 15}
    with pytest.raises(FaultError, match="bits 'scale' in int8: there are no bits 'scale'"):
        MemoryImage(weights(), "int8").draw(parse_law("bitflip:0.1,bits=scale"), seed=0, trial=0)
    with pytest.raises(FaultError, match="there are no bits 'mantissa'"):
        MemoryImage(weights(), "mxfp4").draw(parse_law("bitflip:0.1,bits=scale:mantissa"), seed=0, trial=0)


def test_what_a_format_cannot_store_is_refused_by_name() -> None:
    bad = {"fine": torch.ones(2, 2), "bad.weight": torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])}
    with pytest.raises(FormatError, match=r"tensor 'bad.weight'.*1 NaN.*1 infinite.*q2\.5"):
        MemoryImage(bad, "q2.5")
    assert MemoryImage(bad, "fp16").bits == 16 * 8


def test_a_map_of_another_layout_is_refused() -> None:
    image, other = MemoryImage(weights()), MemoryImage({"conv.weight": torch.zeros(2, 2)})
    faults = image.draw(parse_law("bitflip:0.01"), seed=0, trial=0)
    with pytest.raises(FaultError, match=r"4 words of 32 bits; the fault map was drawn over 216 words of 32"):
        other.patch(faults)
    with pytest.raises(FaultError, match=r"was drawn over 216 words of 32"):
        MemoryImage(weights(), "fp16").patch(faults)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["fp16", "bf16", "fp8-e5m2", "q2.5", "q0.7", "int8", "fp6-e3m2"]),
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40),
    st.integers(0, 2**32),
)
def test_applying_a_map_twice_is_doing_nothing(format: str, values: list[float], seed: int) -> None:
    image = MemoryImage({"w": torch.tensor(values)}, format)
    stored = image.tensors["w"]
    hit = image.draw(parse_law("bitflip:0.2"), seed=seed, trial=0).faults.get("w")
    if hit is not None:
        once = stored.words.copy()
        once[hit.words] ^= hit.masks.astype(once.dtype)
        assert not np.array_equal(once, stored.words)
        once[hit.words] ^= hit.masks.astype(once.dtype)
        assert np.array_equal(once, stored.words)


def test_words_keep_all_bits_of_a_full_container() -> None:
    codes = parse_format("fp32").encode(torch.tensor([-1.5, 2.0]))
    assert words_of(codes).tolist() == [0xBFC00000, 0x40000000]
    assert torch.equal(codes_of(words_of(codes)), codes)


def test_a_tensor_that_has_the_name_of_check_words_is_refused() -> None:
    """Faults are kept by name: two regions of one name would share theirs."""
    tensors = {"w": torch.ones(8, 8), "w#secded": torch.ones(8, 8)}
    assert MemoryImage(tensors, "fp32").bits == 2 * 64 * 32
    with pytest.raises(UsageError, match="'w#secded' has the name that the check words of another tensor take"):
        MemoryImage(tensors, "fp32", parse_chain("secded=64"))
