"""The command: its map replayed gives the accuracy of its table, by every command that takes one; what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from faultcli.workload.demo import demo_checkpoint_path

Cli = Callable[..., object]
SMALL = ("--limit", "60", "--quiet", "--random-maps", "2", "--search-inputs", "40", "--tries", "12")
DEMO = demo_checkpoint_path()


def document(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_inject_and_evaluate_give_the_accuracy_of_the_table(faultcli: Cli, tmp_path: Path) -> None:
    """In a float format, where one flip is enough for chance level."""
    saved, found, faulty, again = (tmp_path / name for name in ("w.map", "w.json", "f.safetensors", "e.json"))
    how = ("--worst", "5", "--format", "fp16", "--target", "all")
    done = faultcli("where", *SMALL, *how, "--save-faults", saved, "--json", found)
    assert done.code == 0, done.err
    worst = document(found)
    assert worst["flips_to_chance"] == 1
    assert worst["counts"][0]["random"]["mean"] > 0.8
    assert faultcli("inject", DEMO, "--replay", saved, "-o", faulty, "--quiet").code == 0
    assert faultcli("evaluate", faulty, "--limit", "60", "--quiet", "--json", again).code == 0
    assert document(again)["original"]["top1"] == worst["steps"][-1]["accuracy"]
    assert sum(len(step["flips"]) for step in worst["steps"]) == worst["flips"]
    assert worst["counts"][-1]["accuracy"] == worst["steps"][-1]["accuracy"]


def test_a_hardened_file_and_a_campaign_take_the_map(faultcli: Cli, tmp_path: Path) -> None:
    """Flips that get past a code that corrects, check words among them."""
    saved, found, hard, faulty, again, trials = (
        tmp_path / name for name in ("w.map", "w.json", "h.safetensors", "f.safetensors", "e.json", "c.json")
    )
    memory = ("--format", "int8-channel", "--protect", "inplace=1")
    assert faultcli("where", *SMALL, *memory, "--worst", "6", "--save-faults", saved, "--json", found).code == 0
    worst = document(found)["steps"][-1]["accuracy"]
    assert worst < document(found)["stored_accuracy"]
    assert len(document(found)["steps"][0]["flips"]) > 1
    assert faultcli("harden", DEMO, *memory, "-o", hard, "--quiet").code == 0
    assert faultcli("inject", hard, "--replay", saved, "-o", faulty, "--quiet").code == 0
    assert faultcli("evaluate", faulty, "--limit", "60", "--quiet", "--json", again).code == 0
    assert document(again)["original"]["top1"] == worst
    fault = ("--fault", f"measured:{saved}", "--trials", "1")
    assert faultcli("campaign", *memory, *fault, "--limit", "60", "--quiet", "--json", trials).code == 0
    assert document(trials)["arms"][0]["accuracy"]["mean"] == worst


def test_the_table_names_every_flip_and_what_is_not_stopped(faultcli: Cli) -> None:
    done = faultcli("where", *SMALL, "--worst", "2", "--format", "fp16", "--protect", "scale=max,guard")
    assert done.code == 0
    text = " ".join(done.out.split())
    for part in ("fc2.weight", "→", "random", "other inputs", "digits,split=train", "chance", "flipped sign"):
        assert part in text, part


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--worst", "0"), "--worst 0"),
        (("--tries", "0"), "--tries 0"),
        (("--search-inputs", "0"), "--search-inputs 0"),
        (("--random-maps", "-1"), "--random-maps -1"),
        (("--format", "q2.5", "--protect", "scale=auto"), "depends on the bit-error rate"),
        (("--search-data", "nothing"), "nothing"),
        (("--save-faults", "no/where.map"), "no/where.map"),
        (("--target", "activations"), "outputs of layers"),
        (("--by", "channel"), "--by: is of samples"),
        (("--workers", "2"), "--workers: is of samples"),
    ],
)
def test_what_makes_no_sense_is_refused(options: tuple[str, ...], said: str, faultcli: Cli) -> None:
    done = faultcli("where", "--worst", "1", *SMALL, *options)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 2


def test_its_options_are_refused_without_it(faultcli: Cli) -> None:
    done = faultcli("where", "--limit", "20", "--search-inputs", "3")
    assert done.code == 2
    assert "--search-inputs: is of the flips that hurt most" in done.err


def test_a_language_model(faultcli: Cli, data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    stories, found = data_dir / "stories260k", tmp_path / "w.json"
    data = ("--data", stories / "eval_tokens.safetensors", "--limit", "1")
    search = ("--search-data", stories / "eval_tokens_valid_head.safetensors", "--search-inputs", "1", "--tries", "1")
    how = ("--worst", "2", "--random-maps", "1", "--format", "int8-channel", "--include", "*layers.0.mlp*")
    done = faultcli("where", stories / "hf", *data, *search, *how, "--quiet", "--json", found)
    assert done.code == 0, done.err
    worst = document(found)
    assert worst["searched_on"]["apart"]
    one, two = worst["steps"]
    assert two["search_loss"] > one["search_loss"]
    assert two["perplexity"] > one["perplexity"]  # of texts that were not searched on
    assert worst["flips_to_chance"] is None
