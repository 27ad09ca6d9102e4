"""Folders of images into a network's classes: by name or by order, and what is said of it; accuracy that is chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from faultcli.workload.chance import no_better_than_chance
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.data.labels import numbers_by_name
from faultcli.workload.models.architectures import Classes
from faultcli.workload.models.hf_labels import class_names, offset_of
from faultcli.workload.models.huggingface import hugging_face_architecture

Image = pytest.importorskip("PIL.Image")


def folders(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / name / "1.png")
    return root


def load(
    root: Path, options: str = "", *, names: Sequence[str] = (), number: int | None = None, offset: int = 0
) -> Dataset:
    classes = Classes(number or len(names) or None, tuple(names))
    return load_data(f"images:{root}{options}", classes=classes, label_offset=offset)


def test_folders_that_are_named_like_classes_are_these(tmp_path: Path) -> None:
    root = folders(tmp_path, ["Dog", "cat", "zebra_crossing"])
    data = load(root, names=["cat", "dog", "owl", "zebra crossing"])
    assert data.labels.tolist() == [1, 0, 3]  # in the order of the folders: Dog, cat, ...
    assert data.class_names == ("cat", "dog", "owl", "zebra crossing")
    (note,) = data.notes
    assert note == f"images:{root}: its folders are the network's classes of the same names, whatever their order"


def test_nothing_is_said_where_name_and_order_agree(tmp_path: Path) -> None:
    root = folders(tmp_path, ["cat", "dog"])
    for data in (load(root, names=["cat", "dog"]), load(root, names=["background", "cat", "dog"], offset=1)):
        assert data.notes == ()
    assert data.labels.tolist() == [1, 2]
    assert load(root, names=["a", "b"]).notes == ()
    assert load(root).notes == ()


def test_names_of_a_network_with_a_background_are_not_moved(tmp_path: Path) -> None:
    data = load(folders(tmp_path, ["dog"]), names=["background", "cat", "dog"], offset=1)
    assert data.labels.tolist() == [2]


def test_what_a_user_says_of_classes_goes_first(tmp_path: Path) -> None:
    root = folders(tmp_path / "images", ["cat", "dog"])
    table = tmp_path / "classes.csv"
    table.write_text("index,name\n0,cat\n2,dog\n")
    names = ["dog", "cat", "cow"]
    assert load(root, names=names).labels.tolist() == [1, 0]
    for options, labels in {f",classes={table}": [0, 2], ",offset=0": [0, 1], ",offset=1": [1, 2]}.items():
        data = load(root, options, names=names)
        assert (data.labels.tolist(), data.notes) == (labels, ())


def test_fewer_folders_than_classes_are_said(tmp_path: Path) -> None:
    root = folders(tmp_path, ["a", "b", "c"])
    (note,) = load(root, number=1001, offset=1).notes
    assert note == (
        f"images:{root}: 3 folders are taken for classes 1 to 3 of 1001 in the order of their names; if they are"
        " others, pass ,classes=FILE.csv (columns index and name)"
    )
    (note,) = load(root, names=["c", "b", "x"]).notes
    assert "though 2 are named like classes ('a' is not)" in note


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tench", 0),
        ("TINCA_TINCA", 0),
        ("tench, Tinca tinca", 0),
        ("n01443537", 1),
        ("goldfish", None),  # no name of its own in "n01443537 goldfish"
        ("crane", 2),  # a whole name goes before a part of another one
        ("maillot", None),  # two have it
        ("", None),
    ],
)
def test_names_of_classes(name: str, number: int | None) -> None:
    classes = [
        "tench, Tinca tinca",
        "n01443537 goldfish",
        "crane",
        "crane, heron",
        "maillot",
        "maillot, tank suit",
        "maillot",
    ]
    assert numbers_by_name([name], classes).get(name) == number


@pytest.mark.parametrize("table", [None, {}, {1: "b"}, ["a", "b"], {0: "a", 2: "b"}])
def test_configurations_without_names_of_all_classes(table: object) -> None:
    names = class_names(type("Config", (), {"id2label": table})())
    assert (names, offset_of(names)) == ((), 0)


def test_a_directory_says_its_classes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(image_size=4, id2label={0: "Background", 1: "dog", 2: "cat"})
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(tmp_path / "net")
    made = hugging_face_architecture("hf", tmp_path / "net")
    assert (made.wanted["classes"], made.label_offset) == (Classes(3, ("Background", "dog", "cat")), 1)
    described = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps(described | {"id2label": None}))
    again = hugging_face_architecture("hf", tmp_path / "net")
    assert (again.class_names, again.label_offset) == (("LABEL_0", "LABEL_1"), 0)  # as transformers fills it in


@pytest.mark.parametrize(
    ("correct", "inputs", "classes", "chance"),
    [
        (0, 500, 1000, True),
        (1, 500, 1000, True),
        (3, 500, 1000, False),  # more than chance would give in 95 of 100 cases
        (0, 20, 1000, False),  # a model of 10 % has no hit in 20 often enough
        (0, 30, 1000, True),
        (0, 4, 10, False),
        (50, 500, 10, True),
        (10, 100, 10, True),
        (5, 50, 10, False),
        (60, 500, 10, True),
        (70, 500, 10, False),
        (250, 500, 2, True),
        (50, 100, 2, False),  # 55 % may give that
        (300, 500, 2, False),
        (500, 500, 1, False),
        (0, 1, 2, False),
    ],
)
def test_what_is_chance(correct: int, inputs: int, classes: int, chance: bool) -> None:
    assert no_better_than_chance(correct, inputs, classes) is chance
