"""Directories, image folders and exported programs as a user meets them: what works, and one line for what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier as transformers saves it, in two shards, and eight pictures of its two classes."""
    root = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    transformers.ResNetForImageClassification(config).save_pretrained(root / "net", max_shard_size="8KB")
    (root / "net" / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    for number in range(8):
        folder = root / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 24), (30 * number, 0, 0)).save(folder / f"{number}.png")
    return root


def test_a_campaign_on_a_directory(place: Path, faultcli: Callable[..., Any]) -> None:
    done = faultcli(
        *("campaign", place / "net", "--data", f"images:{place}/pictures", "--format", "fp16,q2.5", "--ber", "1e-3"),
        *("--recalibrate", "none", "--recalibrate", "bn:8", "--unlabelled", f"images:{place}/pictures"),
        *("--trials", 2, "--device", "cpu", "--quiet", "--json", "-"),
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["inputs"] == 8
    assert [arm["recalibrate"] for arm in document["arms"]] == [None, "bn:8"] * 2
    assert all("perplexity" not in arm for arm in document["arms"])


def test_injected_directories_run(place: Path, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    out = tmp_path / "damaged"
    done = faultcli("inject", place / "net", "--ber", "1e-3", "-o", out)
    assert done.code == 0, done.err
    done = faultcli("evaluate", out, "--data", f"images:{place}/pictures", "--device", "cpu")
    assert done.code == 0, done.err
    assert "ResNetForImageClassification on 8 inputs" in done.err


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        ("net --data images:none", "there is no directory 'none'", "pass --data images:DIR"),
        ("net --data images:net", "has no folders", "a folder for every class"),
        ("net --data images:pictures,classes=none.csv", "none.csv: cannot be read", None),
        ("net --data images:pictures,offset=1", "label 2 is out of range", "pass the --data"),
        ("net", "ResNetForImageClassification needs data to run on", "images:DIR"),
        ("net --arch none.pt2 --data images:pictures", "none.pt2: there is no such file", "torch.export.save"),
        ("net --arch hff --data images:pictures", "unknown architecture 'hff'", "did you mean 'hf'?"),
        ("net --data digits", "digits: inputs of shape", "e.g. images:DIR"),
        ("net --data images:pictures --max-drop 0.1", "No such option", None),
    ],
)
def test_mistakes(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    faultcli: Callable[..., Any],
    arguments: str,
    message: str,
    remedy: str | None,
) -> None:
    monkeypatch.chdir(place)
    done = faultcli("evaluate", *arguments.split(), "--device", "cpu")
    error = " ".join(done.err.split())
    assert (done.code, done.out) == (2, "")
    assert message in error
    assert remedy is None or remedy in error
    assert "Traceback" not in done.err


def test_the_table_of_architectures_names_every_spelling(faultcli: Callable[..., Any]) -> None:
    done = faultcli("inspect", "--archs", "--json", "-")
    names = [row["name"] for row in json.loads(done.out)["archs"]]
    assert {"hf", "torchvision:NAME", "timm:NAME", "FILE.pt2", "package.module:factory"} < set(names)
    text = " ".join(faultcli("evaluate", "--help").out.split())
    assert all(word in text for word in ("torchvision:NAME", "timm:NAME", "FILE.pt2", "images:DIR", ".txt"))
