"""Which class of transformers a directory is of, where config.json leaves it open; sound; libraries that do not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import faultcli as fc
from faultcli.campaign.executors.parcel import pack, unpack
from faultcli.errors import FaultcliError, WorkloadError
from faultcli.workload.base import BaseWorkload
from faultcli.workload.classifier import Workload
from faultcli.workload.models.hf_class import class_of
from faultcli.workload.models.hf_config import read_config

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
VIT = {**SMALL, "image_size": 16, "patch_size": 8, "num_labels": 4}
LLAMA = {**SMALL, "vocab_size": 30, "num_key_value_heads": 1}
WAV = {
    **SMALL,
    "conv_dim": (8, 8),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "num_labels": 3,
    "vocab_size": 10,
}
PVT = {
    "image_size": 32,
    "hidden_sizes": [4, 4, 4, 4],
    "num_attention_heads": [1] * 4,
    "depths": [1] * 4,
    "sequence_reduction_ratios": [1] * 4,
    "mlp_ratios": [1] * 4,
    "num_labels": 6,
}


def save(directory: Path, family: str, task: str, config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    made = getattr(transformers, f"{family}Config")(**config)
    model = getattr(transformers, f"{family}{task}")(made).eval()
    model.save_pretrained(directory)
    return model


def rewrite(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    generator = torch.Generator().manual_seed(0)
    files = {
        "images": {"images": torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=generator)},
        "tokens": {"input_ids": torch.randint(0, 30, (4, 9), generator=generator)},
        "sound": {"inputs": torch.randn(4, 200, generator=generator)},
    }
    for name, arrays in files.items():
        save_file({**arrays, "labels": torch.arange(4) % 3}, tmp_path / f"{name}.safetensors")
    return {name: str(tmp_path / f"{name}.safetensors") for name in files}


def opened(model: Path, data: str) -> BaseWorkload:
    return fc.Subject.open(model, data, device="cpu").workload


OPEN: dict[str, Callable[[str], dict[str, Any]]] = {
    "missing": lambda family: {"architectures": ...},
    "null": lambda family: {"architectures": None},
    "backbone": lambda family: {"architectures": [f"{family}Model"]},
    "unknown": lambda family: {"architectures": ["SomethingOld"]},
}


@pytest.mark.parametrize(
    ("family", "task", "config", "kind", "change"),
    [
        *(("ViT", "ForImageClassification", VIT, "images", change) for change in OPEN),
        ("Llama", "ForCausalLM", LLAMA, "tokens", "backbone"),
        ("Llama", "ForSequenceClassification", {**LLAMA, "num_labels": 3, "pad_token_id": 0}, "tokens", "missing"),
        ("Wav2Vec2", "ForSequenceClassification", WAV, "sound", "null"),
    ],
)
def test_the_class_is_told_from_the_head(
    family: str, task: str, config: dict[str, Any], kind: str, change: str, data: dict[str, str], tmp_path: Path
) -> None:
    save(tmp_path / "m", family, task, config)
    named = opened(tmp_path / "m", data[kind])
    rewrite(tmp_path / "m", **OPEN[change](family))
    told = opened(tmp_path / "m", data[kind])
    assert told.architecture.name == named.architecture.name == f"{family}{task}"
    assert told.outcome() == named.outcome()
    assert not [note for note in named.doubts() if "taken for" in note]
    assert [note for note in told.doubts() if f"taken for {family}{task}, whose head the checkpoint has (" in note]


def test_a_language_model_whose_head_is_tied_needs_no_head_in_the_file(data: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "m", "Llama", "ForCausalLM", {**LLAMA, "tie_word_embeddings": True})
    rewrite(tmp_path / "m", architectures=["LlamaModel"])
    assert opened(tmp_path / "m", data["tokens"]).architecture.name == "LlamaForCausalLM"


@pytest.mark.parametrize(("family", "kind"), [("Bert", "tokens"), ("ViT", "images")])
def test_a_backbone_answers_nothing(family: str, kind: str, data: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "m", family, "Model", {**(VIT if family == "ViT" else SMALL), "num_labels": 3})
    with pytest.raises(WorkloadError, match=f"the checkpoint holds {family}Model, a network without a head") as info:
        opened(tmp_path / "m", data[kind])
    assert "--score" in (info.value.remedy or "")


def test_masked_words_are_no_next_words(data: dict[str, str], tmp_path: Path) -> None:
    """The head of BERT's pre-training has the names of its decoder's."""
    save(tmp_path / "m", "Bert", "ForMaskedLM", {**SMALL, "vocab_size": 30})
    rewrite(tmp_path / "m", architectures=None)
    with pytest.raises(WorkloadError, match="a network without a head"):
        opened(tmp_path / "m", data["tokens"])


@pytest.mark.parametrize("changes", [{"id2label": None, "label2id": None}, {"id2label": ..., "label2id": ...}])
def test_without_a_table_of_labels_the_head_says_how_many(
    changes: dict[str, Any], data: dict[str, str], tmp_path: Path
) -> None:
    save(tmp_path / "m", "ViT", "ForImageClassification", VIT)
    before = opened(tmp_path / "m", data["images"]).outcome()
    rewrite(tmp_path / "m", **changes)
    workload = opened(tmp_path / "m", data["images"])
    assert workload.architecture.num_classes == 4
    assert workload.outcome() == before
    assert [note for note in workload.doubts() if "names no labels; 4 classes, as the checkpoint's head has" in note]


def test_pvt_whose_labels_transformers_itself_writes_as_null(tmp_path: Path) -> None:
    save(tmp_path / "m", "Pvt", "ForImageClassification", PVT)
    rewrite(tmp_path / "m", id2label=None)
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(3)}, tmp_path / "d.safetensors")
    workload = opened(tmp_path / "m", str(tmp_path / "d.safetensors"))
    assert workload.outcome().n == 3
    assert workload.architecture.num_classes == 6


def test_kernels_and_dtypes_of_other_machines_do_not_matter(data: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "m", "ViT", "ForImageClassification", VIT)
    before = opened(tmp_path / "m", data["images"]).outcome()
    rewrite(tmp_path / "m", _attn_implementation="flash_attention_2", dtype="bfloat16", label2id={})
    assert opened(tmp_path / "m", data["images"]).outcome() == before


AST = {**SMALL, "max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
WHISPER = {
    "vocab_size": 20,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "classifier_proj_size": 8,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
}
SOUND = {
    "Wav2Vec2ForSequenceClassification": (WAV, "input_values", (200,)),
    "HubertForSequenceClassification": (WAV, "input_values", (200,)),
    "ASTForAudioClassification": (AST, "input_values", (32, 16)),
    "WhisperForAudioClassification": (WHISPER, "input_features", (8, 32)),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("by_name", [True, False])
def test_classifiers_of_sound(name: str, by_name: bool, tmp_path: Path) -> None:
    config, argument, shape = SOUND[name]
    family, _, task = name.partition("For")
    model = save(tmp_path / "m", family, f"For{task}", {**config, "num_labels": 3})
    inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5) % 3
    save_file({argument if by_name else "inputs": inputs, "labels": labels}, tmp_path / "d.safetensors")
    workload = opened(tmp_path / "m", str(tmp_path / "d.safetensors"))
    assert isinstance(workload, Workload)
    with torch.inference_mode():
        expected = model(**{argument: inputs}, labels=labels)
    torch.testing.assert_close(workload.logits(), expected.logits, rtol=1e-5, atol=1e-6)
    assert workload.outcome().loss == pytest.approx(float(expected.loss), rel=1e-6)


BROKEN = 'raise RuntimeError("operator {0}::nms does not exist")\n'


def test_libraries_beside_torch_that_do_not_fit_it_are_as_if_they_were_not_there(
    data: dict[str, str], tmp_path: Path
) -> None:
    """Transformers looks for them by their metadata, and imports them."""
    save(tmp_path / "m", "ViT", "ForImageClassification", VIT)
    site = tmp_path / "site"
    for library in ("torchvision", "torchaudio"):
        (site / library).mkdir(parents=True)
        (site / library / "__init__.py").write_text(BROKEN.format(library))
        (site / f"{library}-9.0.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {library}\nVersion: 9.0\n"
        (site / f"{library}-9.0.dist-info" / "METADATA").write_text(metadata)
    root = Path(fc.__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "faultcli",
            "evaluate",
            str(tmp_path / "m"),
            "--data",
            data["images"],
            "--device",
            "cpu",
        ],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "torchvision" not in done.stderr


def test_worker_processes_import_transformers_as_the_first_one_did() -> None:
    parcel = pack(transformers.ViTForImageClassification)
    assert b"_class_of_transformers" in parcel.head  # which hides such libraries before it imports
    assert unpack(parcel.head, parcel.buffers) is transformers.ViTForImageClassification


def test_a_configuration_that_promises_more_than_the_file_holds_is_not_built_while_its_class_is_looked_for(
    data: dict[str, str], tmp_path: Path
) -> None:
    save(tmp_path / "m", "ViT", "ForImageClassification", VIT)
    rewrite(tmp_path / "m", architectures=None, num_hidden_layers=9000)
    with pytest.raises(FaultcliError, match="describes a far larger ViTForImageClassification"):
        opened(tmp_path / "m", data["images"])


def test_wrapped_names_hide_no_head(tmp_path: Path) -> None:
    save(tmp_path / "m", "ViT", "ForImageClassification", VIT)
    state = load_file(tmp_path / "m" / "model.safetensors")
    rewrite(tmp_path / "m", architectures=None)
    shapes = {f"module.{key}": value.shape for key, value in state.items()}
    name, task, _ = class_of(tmp_path / "m", read_config(tmp_path / "m"), shapes)
    assert (name, task and task.name) == ("ViTForImageClassification", "image classifier")
