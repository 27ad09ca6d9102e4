"""GGUF files that run: every tensor found where transformers has it, rows of queries and keys in their order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import Given, write_gguf
from safetensors.torch import load_file, save_file
from torch import Tensor

import faultcli
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.cli import run
from faultcli.errors import FaultcliError
from faultcli.faults.laws import parse_law

HEADS = {"q_proj": 4, "k_proj": 2}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def converted(name: str, values: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a tensor as llama.cpp's converter writes it: `permute` of docs/gguf.md, for heads of queries and keys."""
    stem, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", stem)
    heads = HEADS.get(stem.rpartition(".")[2])
    if heads is not None:
        halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    return (f"blk.{layer[1]}.{NAMES[layer[2]]}.{kind}" if layer else f"{NAMES[stem]}.{kind}"), values


def q8_0(values: np.ndarray) -> bytes:
    blocks = values.reshape(-1, 32)
    scales = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    codes = np.round(blocks / scales.astype(np.float32)).clip(-127, 127).astype(np.int8)
    return b"".join(scale.tobytes() + code.tobytes() for scale, code in zip(scales, codes, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("gguf")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS["q_proj"],
        num_key_value_heads=HEADS["k_proj"],
        intermediate_size=64,
        vocab_size=50,
        max_position_embeddings=24,
        attention_bias=True,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(tensor)
    model.save_pretrained(root / "hf")
    save_file({"input_ids": torch.randint(0, 50, (4, 12))}, root / "tokens.safetensors")
    (root / "config.json").write_text((root / "hf" / "config.json").read_text())
    state = load_file(root / "hf" / "model.safetensors").items()
    own = dict(converted(name, tensor.float().numpy()) for name, tensor in state)
    plain = {name: Given("F32", values.shape, values.tobytes()) for name, values in own.items()}
    packed = {name: Given("Q8_0", v.shape, q8_0(v)) for name, v in own.items() if v.ndim > 1 and "blk" in name}
    write_gguf(root / "plain.gguf", plain)
    write_gguf(root / "q8.gguf", plain | packed | {"rope_freqs.weight": Given("F32", (4,), bytes(16))})
    return root


@pytest.fixture
def subject(folder: Path) -> Callable[..., Subject]:
    def opened(path: Path, **selecting: str) -> Subject:
        return Subject.open(path, str(folder / "tokens.safetensors"), device="cpu", **selecting)

    return opened


def bits(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: tensor.contiguous().view(-1).view(torch.int32).tolist() for name, tensor in tensors.items()}


def own_state(subject: Subject) -> dict[str, list[int]]:
    return bits(dict(subject.workload.model.state_dict()))


def test_a_plain_file_is_the_model_that_it_was_converted_from(folder: Path, subject: Callable[..., Subject]) -> None:
    one, other = subject(folder / "plain.gguf"), subject(folder / "hf", arch="hf")
    assert own_state(one) == own_state(other)
    assert one.workload.outcome() == other.workload.outcome()
    assert one.checkpoint_hash == Checkpoint.open(folder / "plain.gguf").sha256()


@pytest.mark.parametrize(("name", "target"), [("q8", "codes"), ("q8", "scales"), ("q8", "all"), ("plain", "all")])
def test_a_trial_is_the_corrupted_file(
    name: str, target: str, folder: Path, subject: Callable[..., Subject], tmp_path: Path
) -> None:
    """The same bits are hit; the model then holds what the file, opened anew, reads as; and afterwards what it did."""
    model = folder / f"{name}.gguf"
    exclude = ["rope_freqs*"] if (name, target) == ("q8", "all") else []
    ran = Subject.open(model, str(folder / "tokens.safetensors"), device="cpu", target=target, exclude=exclude)
    image = ran.memory()
    faults = image.draw(parse_law("bitflip:1e-3"), seed=3, trial=2)
    made = tmp_path / "made.gguf"
    done = faultcli.inject(model, "bitflip:1e-3", made, target=target, exclude=exclude, seed=3, trial=2)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert faults.sha256() == done.faults.sha256()
    patch = image.patch(faults)
    assert patch.values_changed == done.values_changed > 0
    before = own_state(ran)
    with patch.applied(ran.workload.parameters):
        held, answers = own_state(ran), ran.workload.outcome()
    assert before == own_state(ran) != held
    corrupted = subject(made)
    assert held == own_state(corrupted)
    assert answers == corrupted.workload.outcome()


def test_a_campaign_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["campaign", str(folder / "q8.gguf"), "--data", str(folder / "tokens.safetensors"), "--device", "cpu"]
    assert run([*command, "--ber", "1e-3", "--trials", "2", "--target", "scales", "--protect", "secded=64"]) == 0
    said = capsys.readouterr().err
    assert "is quantised (GGUF); faults hit the words of its file" in said
    assert "rope_freqs.weight: the model computes it from config.json" in said
    capsys.readouterr()
    command[1] = str(folder / "plain.gguf")
    assert run([*command, "--ber", "1e-3", "--trials", "2", "--format", "q2.5", "--quiet"]) == 0


def refused(path: Path, data: Path) -> str:
    with pytest.raises(FaultcliError) as caught:
        Subject.open(path, str(data), device="cpu")
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    return caught.value.message


def test_what_does_not_run_says_so(folder: Path, tmp_path: Path) -> None:
    tokens = folder / "tokens.safetensors"
    embedding = {"token_embd.weight": Given("F32", (50, 32), bytes(6400))}
    path = write_gguf(tmp_path / "m.gguf", embedding)
    assert refused(path, tokens) == "--arch hf: there is no config.json beside the checkpoint"
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "qwen2", "architectures": None}))
    assert refused(path, tokens).endswith("is of a qwen2; run from GGUF are llama and mistral")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "the checkpoint does not fit the LlamaForCausalLM of its config.json" in refused(path, tokens)
    write_gguf(path, embedding | {"blk.0.ssm_a": Given("F32", (2, 2), bytes(16))})
    assert "tensor 'blk.0.ssm_a' of the GGUF file is none of a llama or mistral" in refused(path, tokens)
    write_gguf(path, embedding | {"blk.0.attn_q.weight": Given("Q3_K", (2, 256), bytes(220))})
    assert refused(path, tokens).endswith("tensor 'blk.0.attn_q.weight' is Q3_K, which is not read")
