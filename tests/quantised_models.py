"""A small language model whose linear layers are quantised to 4 bits and packed as GPTQ, rounding to nearest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 16


def pack(codes: Tensor) -> Tensor:
    """Pack 4-bit codes along the rows, eight in a word, least significant first."""
    blocks = codes.reshape(-1, 8, codes.shape[1]).to(torch.int64)
    words = sum(blocks[:, place] << 4 * place for place in range(8))
    assert isinstance(words, Tensor)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).contiguous()


def gptq(weight: Tensor, order: Tensor) -> dict[str, Tensor]:
    """Quantise [out, in]; `order`: of the inputs, by which they are put into groups."""
    index = torch.empty(weight.shape[1], dtype=torch.int32)
    index[order] = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    grouped = weight[:, order].reshape(len(weight), -1, GROUP)
    low, high = grouped.amin(2), grouped.amax(2)
    scales = ((high - low) / 15).to(torch.float16)
    zeros = (-low / scales).round().clamp(1, 15)
    codes = (weight / scales.float()[:, index.long()] + zeros[:, index.long()]).round().clamp(0, 15)
    return {
        "qweight": pack(codes.T),
        "qzeros": pack(zeros - 1).T.contiguous(),
        "scales": scales.T.contiguous(),
        "g_idx": index,
    }


def quantise(source: Path, target: Path) -> Path:
    """Write a directory of a model whose projections are quantised."""
    torch.manual_seed(2)
    target.mkdir()
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            parts = gptq(tensor.float(), torch.randperm(tensor.shape[1]))
            tensors |= {f"{name.removesuffix('weight')}{part}": words for part, words in parts.items()}
        else:
            tensors[name] = tensor
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True}
    (target / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return target


def small_model(root: Path) -> Path:
    """Write a Llama in a folder, quantised, as `model`; beside it `plain` and `tokens.safetensors`."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=50,
        max_position_embeddings=24,
        tie_word_embeddings=True,
    )
    plain = transformers.LlamaForCausalLM(config)
    plain.save_pretrained(root / "plain")
    save_file({"input_ids": torch.randint(0, 50, (4, 12))}, root / "tokens.safetensors")
    return quantise(root / "plain", root / "model")
