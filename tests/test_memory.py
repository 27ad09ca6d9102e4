"""The memory image against the slow, obvious way: corrupt every code, decode everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faultcli.errors import FaultError, FormatError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.formats import parse_format
from faultcli.memory import MemoryImage
from faultcli.protect.base import codes_of, words_of
from faultcli.protect.chain import parse_chain

FORMATS = ["native", "fp32", "fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp4-e2m1", "q2.5", "q7.24", "int8"]
FORMATS += ["int4-channel"]


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "conv.weight": torch.randn(8, 3, 3, 3, generator=generator).to(dtype),
        "fc.weight": torch.randn(10, 50, generator=generator).to(dtype),
    }


def slow_read(values: torch.Tensor, format: str, faults: FaultMap, name: str) -> torch.Tensor:
    """Encode everything, flip bit by bit, decode everything."""
    fitted = (MemoryImage({name: values}, format).tensors[name].format).fitted(values)
    words = [int(word) for word in words_of(fitted.encode(values))]
    if name in faults.faults:
        hit = faults.faults[name]
        for word, mask in zip(hit.words.tolist(), hit.masks.tolist(), strict=True):
            for bit in range(fitted.bits):
                if mask >> bit & 1:
                    words[word] ^= 1 << bit
    container = words_of(fitted.encode(values)).dtype
    return fitted.decode(codes_of(np.array(words, dtype=container)).view(values.shape))


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
