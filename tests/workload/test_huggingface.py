"""Hugging Face directories: the file's tensors, whatever transformers calls them, and every misfit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from faultcli.checkpoint import Checkpoint
from faultcli.errors import FaultcliError, UsageError, WorkloadError
from faultcli.workload.base import BaseWorkload
from faultcli.workload.building import WorkloadSpec, build_workload

transformers = pytest.importorskip("transformers")

SIZE = 16


def build(directory: Path, data: str, **options: Any) -> BaseWorkload:
    checkpoint = Checkpoint.open(directory)
    return build_workload(
        checkpoint.state(),
        checkpoint.metadata,
        WorkloadSpec(data=data, device="cpu", **options),
        directory=checkpoint.directory,
        is_directory=checkpoint.kind == "directory",
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random models, as transformers saves them."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vit = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIZE,
        patch_size=8,
        num_labels=7,
    )
    transformers.ViTForImageClassification(vit).save_pretrained(root / "vit")
    transformers.ViTForImageClassification(vit).to(torch.bfloat16).save_pretrained(root / "vit-bf16")
    resnet = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=7, num_channels=3
    )
    transformers.ResNetForImageClassification(resnet).save_pretrained(root / "resnet")
    llama = transformers.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        vocab_size=50,
        max_position_embeddings=24,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(llama)
    model.save_pretrained(root / "llama")
    model.save_pretrained(root / "sharded", max_shard_size="10KB")
    model.to(torch.float16).save_pretrained(root / "llama-fp16")
    transformers.BertForMaskedLM(
        transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
        )
    ).save_pretrained(root / "bert")
    return root


@pytest.fixture(scope="module")
def pictures(models: Path) -> str:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
    save_file({"images": images, "labels": torch.arange(6)}, models / "pictures.safetensors")
    return str(models / "pictures.safetensors")


@pytest.fixture(scope="module")
def tokens(models: Path) -> str:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 50, (3, 20), generator=generator)
    mask = (torch.arange(20) < torch.tensor([20, 12, 5])[:, None]).long()
    save_file({"input_ids": ids, "attention_mask": mask}, models / "tokens.safetensors")
    return str(models / "tokens.safetensors")


@pytest.mark.parametrize("name", ["vit", "vit-bf16", "resnet", "llama", "sharded", "llama-fp16"])
def test_every_tensor_of_the_file_is_live_under_its_own_name_bit_for_bit(
    models: Path, pictures: str, tokens: str, name: str
) -> None:
    language = name in ("llama", "sharded", "llama-fp16")
    workload = build(models / name, tokens if language else pictures)
    stored = Checkpoint.open(models / name).state()
    counted = {key for key in stored if not key.endswith("num_batches_tracked")}
    assert counted <= set(workload.parameters)
    for key in counted:
        assert workload.parameters[key].dtype == stored[key].dtype
        assert torch.equal(workload.parameters[key], stored[key])
        assert workload.parameters[key].is_contiguous()


@pytest.mark.parametrize("name", ["vit", "vit-bf16", "resnet"])
def test_classifiers_answer_as_transformers_does(models: Path, pictures: str, name: str) -> None:
    workload = build(models / name, pictures)
    model = transformers.AutoModelForImageClassification.from_pretrained(models / name, local_files_only=True).eval()
    images = load_file(pictures)["images"].permute(0, 3, 1, 2).float().mul(1 / 255)
    with torch.inference_mode():
        expected = model(images.to(model.dtype)).logits.float()
    assert torch.equal(workload.logits(), expected)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_write_into_any_weight_changes_the_answers(models: Path, pictures: str, name: str) -> None:
    workload = build(models / name, pictures)
    before = workload.logits()
    for key, live in workload.parameters.items():
        if live.dim() < 2 or key.endswith("num_batches_tracked"):
            continue
        saved = live.clone()
        live.mul_(-3).add_(1)
        assert not torch.equal(workload.logits(), before), key
        live.copy_(saved)
    assert torch.equal(workload.logits(), before)


def test_tied_weights_are_one(models: Path, tokens: str) -> None:
    workload = build(models / "llama", tokens)
    assert "lm_head.weight" not in workload.parameters
    embedding = workload.parameters["model.embed_tokens.weight"]
    assert embedding.data_ptr() == workload.model.model.lm_head.weight.data_ptr()


def copy(models: Path, name: str, to: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    shutil.copytree(models / name, to)
    return to, load_file(to / "model.safetensors")


def rewrite(directory: Path, file: str, **changes: object) -> None:
    path = directory / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda state: state.pop("classifier.bias"), r"tensors 1 missing \(classifier.bias\)"),
    "of a layer that there is not": (
        lambda state: state.update({"vit.encoder.layer.2.layernorm_after.bias": torch.zeros(32)}),
        r"tensors 1 unexpected \(vit.layers.2.layernorm_after.bias\)",
    ),
    "reshaped": (
        lambda state: state.update({"classifier.weight": torch.zeros(5, 32)}),
        r"of another shape \(classifier.weight\)",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_tensors_have_to_be_those_of_the_configuration(models: Path, pictures: str, tmp_path: Path, kind: str) -> None:
    directory, state = copy(models, "vit", tmp_path / "m")
    change, message = MISFITS[kind]
    change(state)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorkloadError, match=message) as info:
        build(directory, pictures)
    assert "belong together" in (info.value.remedy or "")


@pytest.mark.parametrize(("name", "wrapper"), [("vit", "_orig_mod."), ("llama", "module."), ("llama", "model.")])
def test_weights_from_inside_a_wrapper_run_with_their_average_beside_them(
    models: Path, pictures: str, tokens: str, tmp_path: Path, name: str, wrapper: str
) -> None:
    data = pictures if name == "vit" else tokens
    directory, state = copy(models, name, tmp_path / "m")
    average = {"ema." + key: tensor + 1 for key, tensor in state.items()}
    for beside in ({}, average):
        file = {wrapper + key: tensor for key, tensor in state.items()} | beside
        save_file(file, directory / "model.safetensors", metadata={"format": "pt"})
        workload = build(directory, data)
        assert workload.outcome().loss == build(models / name, data).outcome().loss
        assert set(workload.parameters) == {wrapper + key for key in state}
        said = [f"the file's names begin with {wrapper!r}, which is taken off"]
        copied = f"a second copy of the weights, {len(state)} tensors under 'ema.', is not run and not at risk:"
        notes = [note for note in workload.doubts() if "preprocessor_config.json" not in note]
        assert notes == said + [f"{copied} those under {wrapper!r} run"] * bool(beside)


def test_tensors_that_nobody_expects_are_not_read(models: Path, pictures: str, tmp_path: Path) -> None:
    directory, state = copy(models, "vit", tmp_path / "m")
    save_file(state | {"extra": torch.zeros(2)}, directory / "model.safetensors", metadata={"format": "pt"})
    workload = build(directory, pictures)
    assert "extra" not in workload.parameters
    assert workload.binding is not None
    assert workload.binding.unknown == {"extra"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nothing-known"}, "cannot be used"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "by a library whose layout is not read"),
        (
            {"architectures": ["MyNet"], "auto_map": {"AutoModel": "evil.MyNet"}},
            "needs code that came with the checkpoint",
        ),
        ({"hidden_size": "many"}, "cannot be (used|built)"),
    ],
)
def test_configurations_that_cannot_be_used(
    models: Path, pictures: str, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    directory, _ = copy(models, "vit", tmp_path / "m")
    rewrite(directory, "config.json", **changes)
    with pytest.raises(WorkloadError, match=message):
        build(directory, pictures)


def test_other_tasks_and_damaged_configurations(models: Path, pictures: str, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="'BertForMaskedLM', which is no image classifier, causal"):
        build(models / "bert", pictures)
    directory, _ = copy(models, "vit", tmp_path / "m")
    (directory / "config.json").write_text("{")
    with pytest.raises(WorkloadError, match=r"config.json: cannot be used"):
        build(directory, pictures)
    (directory / "config.json").unlink()
    with pytest.raises(WorkloadError, match=r"there is no config.json beside the checkpoint"):
        build(directory, pictures, arch="hf")


def test_a_file_needs_to_be_told_that_it_is_of_hugging_face(models: Path, pictures: str) -> None:
    with pytest.raises(WorkloadError, match="not those of any built-in architecture") as info:
        build(models / "vit" / "model.safetensors", pictures)
    assert "hf, torchvision:NAME" in (info.value.remedy or "")
    assert len(build(models / "vit" / "model.safetensors", pictures, arch="hf").logits()) == 6


def test_a_background_class_moves_the_labels(models: Path, pictures: str, tmp_path: Path) -> None:
    directory, _ = copy(models, "vit", tmp_path / "m")
    rewrite(directory, "config.json", id2label=dict(enumerate(["Background", *"abcdef"])))
    assert build(directory, pictures).labels.tolist() == [1, 2, 3, 4, 5, 6]
    assert build(directory, f"{pictures},offset=0").labels.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(WorkloadError, match="label 7 is out of range, ViTForImageClassification has 7 classes"):
        build(directory, f"{pictures},offset=2")


def test_mobilenet_gives_the_published_answers(data_dir: Path) -> None:
    pytest.importorskip("PIL")
    imagenet = data_dir / "imagenet"
    data = f"images:{imagenet}/images,classes={imagenet}/classes.csv"
    workload = build(imagenet / "mobilenet_v2-hf", data, limit=12)
    assert workload.outcome().correct1 == 10  # as transformers itself on (x − 127.5) / 127.5


def test_the_story_teller_has_the_published_loss(data_dir: Path) -> None:
    stories = data_dir / "stories260k"
    outcome = build(stories / "hf", str(stories / "eval_tokens.safetensors")).outcome()
    assert outcome.scored == 1804
    assert outcome.loss == pytest.approx(1.2664, abs=5e-5)
    assert outcome.perplexity == pytest.approx(3.548, abs=5e-4)


def test_language_models_take_tokens_and_no_images(models: Path, pictures: str) -> None:
    with pytest.raises(WorkloadError, match="has no 'input_ids'; it has 'images', 'labels'"):
        build(models / "llama", pictures)
    with pytest.raises(UsageError, match="digits: is no data for a language model"):
        build(models / "llama", "digits")
    with pytest.raises(FaultcliError, match="takes tokens, which have no mean"):
        build(models / "llama", pictures, mean=[0.5])
