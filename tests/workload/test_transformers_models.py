"""Many kinds of models, small and from their configurations, in the layouts that their files have: each answers as it
does in transformers, and with faults in all of it as transformers does on the injected file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from faultcli.api import inject
from faultcli.campaign.subject import Subject
from faultcli.faults.laws import parse_law

transformers = pytest.importorskip("transformers")

VOCABULARY, CLASSES, SIZE = 53, 5, 32
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
SAME_HEADS = TEXT | {"num_key_value_heads": 2}
GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
LANGUAGE: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": GPT | {"bos_token_id": 0, "eos_token_id": 0},
    "GPTNeoXForCausalLM": SAME_HEADS,
    "LlamaForCausalLM": TEXT | {"tie_word_embeddings": True},
    "MistralForCausalLM": TEXT,
    "Qwen2ForCausalLM": TEXT,
    "Qwen3ForCausalLM": TEXT | {"head_dim": 8},
    "Qwen2MoeForCausalLM": TEXT | EXPERTS | {"shared_expert_intermediate_size": 8},
    "Qwen3MoeForCausalLM": TEXT | EXPERTS | {"head_dim": 8},
    "MixtralForCausalLM": TEXT | {"num_local_experts": 3},
    "OlmoeForCausalLM": TEXT | EXPERTS,
    "Gemma2ForCausalLM": TEXT | {"head_dim": 8},
    "PhiForCausalLM": TEXT,
    "Phi3ForCausalLM": TEXT,
    "OPTForCausalLM": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "word_embed_proj_dim": 16,
    },
    "BloomForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "FalconForCausalLM": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "new_decoder_architecture": True,
        "num_kv_heads": 1,
    },
    "GPTJForCausalLM": GPT | {"rotary_dim": 4, "bos_token_id": 0, "eos_token_id": 0},
    "OlmoForCausalLM": TEXT,
    "StableLmForCausalLM": TEXT,
    "MambaForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}
PATCHES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": SIZE,
    "patch_size": 8,
}
WINDOWS = {
    "image_size": SIZE,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}
STAGES = {"image_size": SIZE, "num_stages": 2, "hidden_sizes": [8, 8], "depths": [1, 1]}
CONVOLUTIONS = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}
FOUR = {"image_size": SIZE, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8]}
IMAGES: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": PATCHES,
    "DeiTForImageClassification": PATCHES,
    "BeitForImageClassification": PATCHES | {"use_relative_position_bias": True},
    "Data2VecVisionForImageClassification": PATCHES,
    "Dinov2ForImageClassification": PATCHES,
    "ViTMSNForImageClassification": PATCHES,
    "SwinForImageClassification": WINDOWS,
    "Swinv2ForImageClassification": WINDOWS,
    "ConvNextForImageClassification": STAGES,
    "ConvNextV2ForImageClassification": STAGES,
    "ResNetForImageClassification": CONVOLUTIONS | {"layer_type": "basic"},
    "RegNetForImageClassification": CONVOLUTIONS | {"groups_width": 4},
    "BitForImageClassification": CONVOLUTIONS | {"num_groups": 4},
    "MobileNetV1ForImageClassification": {"depth_multiplier": 0.25, "image_size": SIZE},
    "MobileViTForImageClassification": {
        "image_size": SIZE,
        "hidden_sizes": [8, 8, 8],
        "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16],
        "num_attention_heads": 2,
    },
    "EfficientNetForImageClassification": {
        "image_size": SIZE,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "hidden_dim": 320,
    },
    "LevitForImageClassification": {
        "image_size": SIZE,
        "hidden_sizes": [8, 16, 16],
        "num_attention_heads": [1, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [4, 4, 4],
    },
    "PoolFormerForImageClassification": FOUR,
    "PvtV2ForImageClassification": FOUR | {"num_attention_heads": [1, 1, 2, 2]},
    "SegformerForImageClassification": {
        "depths": [1, 1],
        "num_encoder_blocks": 2,
        "hidden_sizes": [8, 8],
        "sr_ratios": [2, 1],
        "num_attention_heads": [1, 2],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 8,
    },
    "FocalNetForImageClassification": {
        "image_size": SIZE,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "hidden_sizes": [8, 16],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    "SwiftFormerForImageClassification": {"image_size": SIZE, "depths": [1, 1, 1, 1], "embed_dims": [8, 8, 8, 8]},
}
# Saved in the layout of the network itself, too; by default transformers writes that of older releases.
NEW_LAYOUT = [
    "MixtralForCausalLM",
    "Qwen3MoeForCausalLM",
    "ViTForImageClassification",
    "SegformerForImageClassification",
]
CASES = [(name, True) for name in (*LANGUAGE, *IMAGES)] + [(name, False) for name in NEW_LAYOUT]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    np.savez(place / "tokens.npz", input_ids=generator.integers(0, VOCABULARY, (2, 9)))
    pixels = generator.normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(place / "images.npz", inputs=pixels, labels=np.arange(2))
    return place


def save(name: str, place: Path, *, older: bool) -> None:
    """A model whose tensors all differ from what they start as."""
    kind = getattr(transformers, name)
    torch.manual_seed(1)
    labels = {} if name in LANGUAGE else {"num_labels": CLASSES}
    with torch.device("cpu"):
        model = kind(kind.config_class(**(LANGUAGE | IMAGES)[name], **labels))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    model.save_pretrained(place, **({} if older else {"save_original_format": False}))


def loss(name: str, directory: Path, data: Path) -> float:
    """What transformers alone says."""
    model = getattr(transformers, name).from_pretrained(directory).eval()
    with torch.inference_mode():
        if name in LANGUAGE:
            ids = torch.from_numpy(np.load(data / "tokens.npz")["input_ids"])
            logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            return cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()).item()
        images = np.load(data / "images.npz")
        return cross_entropy(
            model(torch.from_numpy(images["inputs"])).logits, torch.from_numpy(images["labels"])
        ).item()


@pytest.mark.parametrize(("name", "older"), CASES, ids=[f"{name}{'' if older else ', new'}" for name, older in CASES])
def test_a_model_and_faults_in_its_file_answer_as_in_transformers(
    name: str, older: bool, data: Path, tmp_path: Path
) -> None:
    save(name, tmp_path / "m", older=older)
    inputs = str(data / ("tokens.npz" if name in LANGUAGE else "images.npz"))
    subject = Subject.open(tmp_path / "m", inputs, device="cpu")
    assert subject.unread == ()
    assert subject.workload.doubts() == []
    healthy = subject.workload.outcome().loss
    assert healthy == pytest.approx(loss(name, tmp_path / "m", data), rel=1e-6)
    law = parse_law("gaussian:0.1")
    image = subject.memory()
    with image.patch(image.draw(law, seed=3, trial=1)).applied(subject.workload.parameters):
        faulty = subject.workload.outcome().loss
    inject(tmp_path / "m", law.spec, tmp_path / "faulty", seed=3, trial=1)
    assert faulty == pytest.approx(loss(name, tmp_path / "faulty", data), rel=1e-6)
    assert faulty != pytest.approx(healthy, rel=1e-5)
    assert subject.workload.outcome().loss == healthy
