"""Quantised checkpoints: every layout reads bit for bit what its own library reads, with flips too; a patch is the
difference of two whole decodes; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.packed import LAYOUTS, HitWords, Packed, PackedWeight
from faultcli.checkpoint.packed.arrays import differing
from faultcli.checkpoint.packed.bits import BitPacking, dense, planar
from faultcli.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "packed"  # made by the libraries: make.py there says how
# Without a configuration: newer zero points and planes are not told from the older; scales of ModelOpt not from others.
UNTOLD = {"float-quantized-blocks", "gptq-v2-4", "gptq-p-3", "modelopt-fp8"}
CASES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())


def opened(folder: Path) -> Packed:
    packed = Packed.of(Checkpoint.open(folder))
    assert packed is not None
    return packed


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit; a NaN is a NaN."""
    flat = [t.masked_fill(t.isnan(), torch.nan).contiguous().view(-1) for t in (one, other)]
    return one.dtype == other.dtype and not differing(*flat).any()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


def only(packed: Packed) -> PackedWeight:
    (weight,) = packed.weights.values()
    return weight


def test_reads_what_the_library_reads(case: Path) -> None:
    packed, expected = opened(case), load_file(GOLDEN / f"{case.name}.expected.safetensors")
    weight = only(packed)
    assert weight.shape == tuple(expected["weight"].shape)
    assert same(packed.decode(weight.name), expected["weight"])
    assert packed.infos[weight.name].shape == weight.shape


def test_reads_what_the_library_reads_after_flips(case: Path) -> None:
    packed, expected = opened(case), load_file(GOLDEN / f"{case.name}.expected.safetensors")
    weight = only(packed)
    faults = {
        key.removesuffix(":words"): (expected[key].numpy(), expected[key[:-5] + "masks"].numpy().view(np.uint64))
        for key in expected
        if key.endswith(":words")
    }
    hit = HitWords(packed.held(weight.name), faults)
    assert same(weight.decode(hit, packed.dtype), expected["hit"])
    index, values = weight.touched(hit, packed.dtype)
    patched = expected["weight"].clone()
    patched.view(-1)[index] = values
    assert same(patched, expected["hit"])


def test_every_layout_of_the_table_has_its_files() -> None:
    found = {opened(GOLDEN / name).layout.title for name in CASES}
    assert found | {"GGUF"} == {layout.title for layout in LAYOUTS.values()}  # of which test_gguf.py writes its files
    page = (GOLDEN.parents[2] / "docs" / "quantised.md").read_text(encoding="utf-8")
    assert all(f"\n| {layout.title} |" in page for layout in LAYOUTS.values())


@st.composite
def flips(draw: st.DrawFn, packed: Packed) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Flips in words of some of the tensors that weights are made of."""
    held = packed.held(next(iter(packed.weights)))
    faults = {}
    for tensor, words in held.words.items():
        bits = 8 * words.itemsize
        hit = draw(st.dictionaries(st.integers(0, len(words) - 1), st.integers(1, (1 << bits) - 1), max_size=3))
        if hit:
            at = sorted(hit)
            faults[tensor] = np.array(at, dtype=np.int64), np.array([hit[w] for w in at], dtype=np.uint64)
    return faults


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_patch_is_the_difference_of_two_decodes(name: str, data: st.DataObject) -> None:
    """Flips in codes, scales, zero points and indices at once: what is touched is what a whole decode of the flipped
    words changes, no more, and with the same values, bit for bit."""
    packed = opened(GOLDEN / name)
    weight = only(packed)
    faults = data.draw(flips(packed))
    held = packed.held(weight.name)
    before, after = weight.decode(held, packed.dtype), weight.decode(HitWords(held, faults), packed.dtype)
    index, values = weight.touched(HitWords(held, faults), packed.dtype)
    changed = np.flatnonzero(differing(before.view(-1), after.view(-1)))
    assert index.tolist() == changed.tolist()
    assert same(values, after.view(-1)[index])


def test_an_index_beyond_the_scales_reads_as_nan() -> None:
    """The libraries stop there with an error, so no answer may come out. As in torch, −1 is the last group."""
    packed = opened(GOLDEN / "gptq-4-act-order")  # 3 groups
    held = packed.held("layer.weight")
    index = held.words["layer.g_idx"].view(np.int32)
    for group, wanted in ((3, None), (-4, None), (-1, 2), (2, 2)):
        mask = np.array([(int(index[5]) ^ group) & 0xFFFFFFFF], dtype=np.uint64)
        read = only(packed).decode(HitWords(held, {"layer.g_idx": (np.array([5]), mask)}))
        if wanted is None:
            assert read[:, 5].isnan().all()
            assert not read[:, :5].isnan().any()
        else:
            other = np.array([int(index[5]) ^ wanted], dtype=np.uint64)
            assert same(read, only(packed).decode(HitWords(held, {"layer.g_idx": (np.array([5]), other)})))


def bit_by_bit(packing: BitPacking, line: list[int], codes: int) -> list[int]:
    """The codes of a line of words, the slow way."""
    found = []
    for place in range(codes):
        block, code = divmod(place, packing.codes)
        value = 0
        for word, shift, width, up in packing.pieces[code]:
            for bit in range(width):
                value |= (line[block * packing.words + word] >> shift + bit & 1) << up + bit
        found.append(value)
    return found


@pytest.mark.parametrize(
    "packing",
    [*(dense(bits, width) for bits in range(1, 9) for width in (8, 32)), *map(planar, (3, 5, 7)), dense(4, 8, (1, 0))],
    ids=lambda packing: f"{packing.bits} bits in {packing.word_bits}",
)
def test_codes_fill_their_words(packing: BitPacking) -> None:
    """Every bit of a block's words belongs to one bit of one code; codes come out as the slow way has them."""
    taken = [
        (piece.word, piece.shift + bit) for pieces in packing.pieces for piece in pieces for bit in range(piece.width)
    ]
    assert sorted(taken) == [(word, bit) for word in range(packing.words) for bit in range(packing.word_bits)]
    codes = packing.codes + packing.codes // 2 + 1
    words = np.random.default_rng(3).integers(0, 1 << packing.word_bits, packing.words_for(codes))
    lines = words.astype(f"u{packing.word_bits // 8}")[None]
    line = [*words.tolist(), *[0] * packing.words]
    assert packing.unpack(lines, codes)[0].tolist() == bit_by_bit(packing, line, codes)


def changed(case: str, folder: Path, tensors: dict[str, Tensor | None] | None = None, **config: object) -> Path:
    """A copy of a golden checkpoint with other tensors (None: without), and another configuration."""
    shutil.copytree(GOLDEN / case, folder)
    held = load_file(folder / "model.safetensors") | (tensors or {})
    save_file({name: t for name, t in held.items() if t is not None}, folder / "model.safetensors")
    said = json.loads((folder / "config.json").read_text())
    said["quantization_config"] |= config
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def refused() -> Iterator[tuple[str, dict[str, Tensor | None], dict[str, object], str]]:
    yield "gptq-4", {"layer.g_idx": None}, {}, "'layer.weight' is quantised, but its 'layer.g_idx' is missing"
    yield "gptq-4", {"layer.scales": None}, {}, "its 'layer.scales' is missing"
    yield "gptq-4", {"layer.qzeros": None}, {}, "its 'layer.qzeros' is missing"
    yield "gptq-4", {}, {"checkpoint_format": "marlin"}, "GPTQ in checkpoint_format 'marlin', a kernel's own order"
    yield "gptq-4", {}, {"bits": 8}, "has 8 words for 64 inputs; 8 bits make 16"
    yield "gptq-4", {}, {"bits": "four"}, "says bits = 'four', which is no whole number"
    yield "gptq-4", {}, {"group_size": 16}, "groups of 16 make 4, the file has 2"
    yield "gptq-4", {"layer.scales": torch.ones(2, 31)}, {}, "is [2, 31]; 'layer.weight' needs [2, 32]"
    yield "gptq-4", {"layer.g_idx": torch.ones(64)}, {}, "is F32; groups are whole numbers"
    yield "awq", {}, {"version": "gemv"}, "AWQ in version 'gemv', whose order is its kernel's"
    yield "awq", {}, {"bits": 3}, "AWQ with 3 bits; version gemm packs 4"
    yield "awq", {}, {"group_size": 48}, "has 64 columns, which groups of 48 do not divide"
    yield "awq", {"layer.scales": None}, {}, "its 'layer.scales' is missing"
    yield "packed-4-group", {}, {"format": "marlin-24"}, "compressed-tensors in format 'marlin-24'"
    yield "packed-4-group", {"layer.weight_scale": None}, {}, "its 'layer.weight_scale' is missing"
    yield "packed-4-group", {"layer.weight_shape": None}, {}, "its 'layer.weight_shape' is missing"
    yield "packed-4-group", {"layer.weight_shape": torch.tensor([16, 9])}, {}, "which no 1 to 8 bits make"
    yield "packed-4-group", {"layer.weight_scale": torch.ones(16, 5)}, {}, "does not divide the 16×64 values"
    yield "nvfp4", {"layer.weight_global_scale": None}, {}, "its 'layer.weight_global_scale' is missing"
    narrow = torch.ones(16, 4).to(torch.float8_e4m3fn)
    yield "nvfp4", {"layer.weight_scale": narrow}, {}, "groups of 16 make"
    yield "nvfp4", {"layer.weight_scale": torch.ones(16, 2)}, {}, "it has to be F8_E4M3 or U8"
    yield "packed-4-group", {"layer.weight_scale": torch.ones(0, 4)}, {}, "holds nothing of 'layer.weight'"
    yield "nf4", {"layer.weight.absmax": None}, {}, "its 'layer.weight.absmax' is missing"
    yield "nf4", {"layer.weight.quant_state.bitsandbytes__nf4": None}, {}, "quant_state.bitsandbytes__nf4' is missing"
    broken = torch.tensor(list(b'{"shape": 3}'), dtype=torch.uint8)
    yield "nf4", {"layer.weight.quant_state.bitsandbytes__nf4": broken}, {}, "does not say what bitsandbytes packed"
    yield "llm-int8", {"layer.SCB": torch.ones(15)}, {}, "has 16 rows"
    yield "fp8-blocks", {"layer.weight_scale_inv": torch.ones(5, 3)}, {}, "does not divide the 32×48 values"
    yield "fp8-blocks", {"other.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, {}, "has no scales in FP8"
    yield "gpt-oss", {"layer.up_scales": torch.ones(2, 12, 2)}, {}, "gpt-oss has E8M0 in U8"
    yield "modelopt-nvfp4", {}, {"quant_algo": "W4A8_AWQ"}, "ModelOpt with quant_algo 'W4A8_AWQ'"
    yield "modelopt-nvfp4", {"layer.weight_scale_2": None}, {}, "its 'layer.weight_scale_2' is missing"
    yield "fp8-blocks", {"layer.weight_scale_inv": None}, {}, "is quantised as FP8 by its config.json, but no tensor"
    yield "modelopt-nvfp4", {"layer.pre_quant_scale": torch.ones(32)}, {}, "multiplies its activations"


@pytest.mark.parametrize(("case", "tensors", "config", "message"), list(refused()))
def test_what_does_not_fit_is_refused(
    case: str, tensors: dict[str, Tensor | None], config: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = changed(case, tmp_path / "model", tensors, **config)
    with pytest.raises(CheckpointError) as caught:
        Packed.of(Checkpoint.open(folder))
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy


def test_torchao_says_what_a_kernel_orders(tmp_path: Path) -> None:
    said = {"layer.weight": json.dumps({"_type": "Int4TilePackedTo4dTensor", "_data": {}, "_tensor_data_names": []})}
    save_file(
        {"layer._weight_qdata": torch.ones(2), "layer._weight_scale": torch.ones(2)}, tmp_path / "m.safetensors", said
    )
    with pytest.raises(CheckpointError, match="Int4TilePackedTo4dTensor, a kernel's own order"):
        Packed.of(Checkpoint.open(tmp_path))


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNTOLD])
def test_a_file_alone_tells_its_layout(name: str, tmp_path: Path) -> None:
    """Without a config.json: the version that most write, and every number from the shapes."""
    shutil.copy(GOLDEN / name / "model.safetensors", tmp_path)
    alone, told = opened(tmp_path), opened(GOLDEN / name)
    assert alone.layout is told.layout
    weight = only(alone)
    assert same(weight.decode(alone.held(weight.name), told.dtype), told.decode(weight.name))


def test_a_checkpoint_in_no_layout_is_plain(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    assert Packed.of(Checkpoint.open(tmp_path)) is None
    folder = changed("gptq-4", tmp_path / "model", quant_method="aqlm")
    assert Packed.of(Checkpoint.open(folder)) is None
