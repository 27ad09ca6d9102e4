"""Quantised checkpoints as the library of their layout runs them, beside decoded weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from gguf_files import Given, write_gguf
from quantised_models import small_model
from safetensors.torch import load_file
from torch import Tensor

import faultcli
from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.packed import Packed
from faultcli.cli import run
from faultcli.workload.models import hf_kernels

SCHEMA = Path(__file__).parents[1] / "docs" / "schemas" / "evaluate.schema.json"
Evaluate = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def evaluate(model: Path, capfd: pytest.CaptureFixture[str]) -> Evaluate:
    def called(directory: Path, *options: object, kernel: str = "library") -> tuple[int, str, str]:
        tokens = model.parent / "tokens.safetensors"
        given = ("evaluate", directory, "--data", tokens, "--device", "cpu", "--kernel", kernel, *options)
        code = run([str(argument) for argument in given])
        return code, *capfd.readouterr()

    return called


def built(directory: Path, words: Mapping[str, Tensor], shift: float) -> Any:
    """A library that decodes the words and has one weight of its own way: its output layer is off by `shift`."""
    transformers: Any = pytest.importorskip("transformers")
    packed = Packed.of(Checkpoint.open(directory))
    assert packed is not None
    assert words.keys() == packed.checkpoint.tensors.keys()
    assert all(torch.equal(words[name], packed.checkpoint.read(name)) for name in words)
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    config["tie_word_embeddings"] = False
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    state = packed.state()
    head = state["model.embed_tokens.weight"].clone()
    head[::2] += shift  # of every other token, so that answers change
    state["lm_head.weight"] = head
    network.load_state_dict(state)
    return network.eval()


def logits_of(network: Any, tokens: Path) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(load_file(tokens)["input_ids"]).logits
    return logits


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_library_that_computes_otherwise_is_seen(
    model: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    made: list[Any] = []

    def loaded(name: str, config: Any, words: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> Any:
        print("a banner")
        assert (name, dtype, device) == ("LlamaForCausalLM", torch.float32, torch.device("cpu"))
        assert config.quantization_config == {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True}
        made.append(built(model, words, shift))
        return made[0], {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(hf_kernels, "_loaded", loaded)
    code, out, _ = evaluate(model, "--json", "-")
    assert code == 0
    document = json.loads(out)  # without the library's banner
    jsonschema.validate(document, json.loads(SCHEMA.read_text()), jsonschema.Draft202012Validator)
    found = document["library"]
    tokens = model.parent / "tokens.safetensors"
    with torch.no_grad():
        own, other = logits_of(built(model, words_of(model), 0.0), tokens), logits_of(made[0], tokens)
    assert found["largest_logit_difference"] == pytest.approx(float((own - other).abs().max()), rel=1e-4, abs=1e-6)
    agreed = (own.argmax(-1) == other.argmax(-1))[:, :-1]
    assert found["agreement"] == pytest.approx(float(agreed.float().mean()))
    assert bool(agreed.all()) == (shift == 0.0)
    assert found["sdc"] == pytest.approx(float((~agreed.all(dim=1)).float().mean()))
    assert found["layers"] == ["Linear"]
    assert document["stored"] == document["original"]
    code, out, _ = evaluate(model)
    assert "library kernel" in out
    text = "the same logits as decoded weights give, bit for bit" if not shift else "logits differ from those of"
    assert f"library kernel (Linear): {text}" in out


def words_of(model: Path) -> dict[str, Tensor]:
    return load_file(model / "model.safetensors")


def test_a_hardened_one_is_run_as_it_reads(
    model: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(["harden", str(model), "--protect", "tmr", "-o", str(tmp_path / "hardened")]) == 0
    faultcli.inject(tmp_path / "hardened", "flips:1", tmp_path / "damaged", target="codes")
    assert words_of(tmp_path / "damaged").keys() != words_of(model).keys()

    def loaded(name: str, config: Any, words: dict[str, Tensor], *_: object) -> Any:
        return built(model, words, 0.0), {"missing_keys": [], "mismatched_keys": []}  # which compares the words

    monkeypatch.setattr(hf_kernels, "_loaded", loaded)
    code, out, err = evaluate(tmp_path / "damaged", "--json", "-")
    assert code == 0, err
    assert json.loads(out[out.index("{\n") :])["library"]["largest_logit_difference"] == 0


def test_decoded_is_the_default(model: Path, evaluate: Evaluate) -> None:
    code, out, _ = evaluate(model, "--json", "-", kernel="decoded")
    assert code == 0
    assert json.loads(out)["library"] is None


def test_a_library_that_misses_tensors_is_refused(
    model: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for found, what in (
        ({"missing_keys": ["a.weight"], "mismatched_keys": []}, "1 tensors are missing, among them a.weight"),
        ({"missing_keys": [], "mismatched_keys": [("b", [1], [2])]}, "1 tensors are of another shape, among them b"),
    ):
        monkeypatch.setattr(hf_kernels, "_loaded", lambda *_, found=found: (None, found))
        code, _, err = evaluate(model)
        assert code == 2
        assert f"to the library of GPTQ {what}" in err


def test_a_library_that_fails_is_refused(model: Path, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("Loading a GPTQ quantized model requires optimum (`pip install optimum`)\nat length")

    monkeypatch.setattr(hf_kernels, "_loaded", missing)
    code, out, err = evaluate(model)
    assert (code, out) == (2, "")
    *_, problem, remedy = err.strip().splitlines()
    assert problem.endswith("model: the library of GPTQ cannot load it: Loading a GPTQ quantized model requires optimum"
                            " (`pip install optimum`)")  # fmt: skip
    assert remedy.startswith("try: install what is missing")

    class Refuses(torch.nn.Module):
        def forward(self, *_: object, **__: object) -> None:
            raise RuntimeError("expected m1 and m2 to have the same dtype")

    monkeypatch.setattr(hf_kernels, "_loaded", lambda *_: (Refuses(), {"missing_keys": [], "mismatched_keys": []}))
    code, out, err = evaluate(model)
    assert (code, out) == (2, "")
    assert "the library of GPTQ cannot run it: expected m1 and m2 to have the same dtype" in err


def test_what_no_library_has_kernels_for_is_refused(model: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    code, _, err = evaluate(model.parent / "plain")
    assert code == 2
    assert "plain is not quantised, so no library has kernels for it" in err
    code, _, err = evaluate(model, "--arch", "lenet")
    assert code == 2
    assert "--kernel library: runs the network that config.json describes, and not --arch lenet" in err
    code, _, err = evaluate(model, kernel="fast")
    assert code == 2
    assert "unknown kernel 'fast'" in err
    assert "known: decoded, library" in err


def test_a_layout_that_no_configuration_names_is_refused(model: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    code, _, err = evaluate(tmp_path)
    assert code == 2
    assert "no quantization_config with a quant_method says which library it is of" in err


def test_kernels_of_gguf_are_not_run(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", {"blk.0.attn_q.weight": Given("Q8_0", (1, 32), bytes(34))})
    packed = Packed.of(Checkpoint.open(tmp_path / "m.gguf"))
    assert packed is not None
    with pytest.raises(faultcli.errors.WorkloadError, match="is a GGUF file; the kernels of"):
        hf_kernels.library_model(packed, torch.device("cpu"))


@pytest.mark.skipif(sys.platform != "linux", reason="bitsandbytes has no CPU kernels elsewhere")
def test_bitsandbytes_runs_what_inject_writes(evaluate: Evaluate, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128, vocab_size=50,
        max_position_embeddings=24, tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    four = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    made = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=four, dtype=torch.float32, device_map="cpu"
    )
    made.save_pretrained(tmp_path / "nf4")
    faultcli.inject(tmp_path / "nf4", "bitflip:1e-3", tmp_path / "faulty", target="codes")
    for directory in ("nf4", "faulty"):
        code, out, err = evaluate(tmp_path / directory, "--json", "-")
        assert code == 0, err
        document = json.loads(out)
        assert document["library"]["layers"] == ["Linear4bit"]
        assert document["library"]["largest_logit_difference"] < 1e-5
        assert document["library"]["top1"] == document["stored"]["top1"]
