"""A folder of images per class: order, classes, sizes, every kind of image, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faultcli.errors import FaultcliError, WorkloadError, install
from faultcli.workload.data import images
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.preprocess import Geometry

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(
    path: Path, colour: object = RED, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: object
) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def load(directory: Path, options: str = "", **known: object) -> Dataset:
    return load_data(f"images:{directory}{options}", **known)


def test_classes_are_the_sorted_folders_and_the_order_takes_turns(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/1.png", "c/1.jpg"):
        paint(tmp_path / name, RED if name == "b/1.png" else GREEN)
    (tmp_path / "a/readme.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    data = load(tmp_path)
    assert (data.labels.tolist(), data.class_names, data.layout) == ([0, 1, 2, 1], ("a", "b", "c"), "NCHW")
    assert data.inputs[1, :, 0, 0].tolist() == list(RED)
    assert load(tmp_path, limit=2).labels.tolist() == [0, 1]


def test_a_file_may_say_which_class_a_folder_is(tmp_path: Path) -> None:
    for wnid in ("n2", "n9"):
        paint(tmp_path / "set" / f"{wnid}.png")
        paint(tmp_path / "set" / wnid / "1.png")
    table = tmp_path / "classes.csv"
    table.write_text("index,wnid,name\n0,n1,cat\n1,n2,dog\n2,n9,\n")
    data = load(tmp_path / "set", f",classes={table}")
    assert (data.labels.tolist(), data.class_names) == ([1, 2], None)
    table.write_text("index,wnid,name\n0,n9,cat\n1,n2,dog\n")
    assert load(tmp_path / "set", f",classes={table}").class_names == ("cat", "dog")
    assert load(tmp_path / "set", f",classes={table},offset=5").labels.tolist() == [6, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,wnid\n0,n1\n", "has no class for the folder 'n2'"),
        ("number,wnid\n0,n2\n", "has no column index"),
        ("index,wnid\nzero,n2\n", "is no table of classes"),
        ("index,wnid\n" + "9" * 5000 + ",n2\n", "is no table of classes: an index is no whole number"),
        ("index,wnid\n0,n2,more,and more\n0\n", "the indexes have to differ"),
        ("index,wnid\n0,n1,n2\n", "has no class for the folder 'n2'"),
        ("index,wnid\n0,n2\n0,n1\n", "the indexes have to differ"),
        ("", "the indexes have to differ and to count from 0|has no column index"),
    ],
)
def test_files_of_classes_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    paint(tmp_path / "n2" / "1.png")
    table = tmp_path / "classes.csv"
    table.write_text(text)
    with pytest.raises(WorkloadError, match=message):
        load(tmp_path, f",classes={table}")


def test_a_missing_file_of_classes(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    with pytest.raises(WorkloadError, match=r"none.csv: cannot be read"):
        load(tmp_path, ",classes=none.csv")


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 7, (7, 7, 7)),
        ("P", 0, (0, 0, 0)),
        ("RGBA", (255, 0, 0, 9), RED),
        ("CMYK", (0, 255, 255, 0), RED),
        ("1", 1, (255,) * 3),
    ],
)
def test_every_image_becomes_rgb(tmp_path: Path, mode: str, colour: object, expected: tuple[int, ...]) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    paint(tmp_path / "a" / f"1.{suffix}", colour, mode=mode)
    difference = np.abs(load(tmp_path).inputs[0, :, 4, 4].numpy().astype(int) - expected)
    assert difference.max() <= (6 if mode == "CMYK" else 0)


def test_grey_networks_get_one_channel(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png", (9, 9, 9))
    data = load(tmp_path, geometry=Geometry((8, 8), channels=1))
    assert (data.item_shape, int(data.inputs.max())) == ((1, 8, 8), 9)


def test_images_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    paint(tmp_path / "a" / "1.png", size=(4, 8), exif=exif)
    assert load(tmp_path).item_shape == (3, 4, 8)


def test_images_are_resized_by_their_shorter_edge_and_cropped_from_the_centre(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 16), GREEN)
    picture.paste(RED, (0, 0, 8, 16))
    picture.paste(BLUE, (24, 0, 32, 16))
    (tmp_path / "a").mkdir()
    picture.save(tmp_path / "a" / "1.png")
    data = load(tmp_path, geometry=Geometry((8, 8), resize=8, resample=0))
    assert data.item_shape == (3, 8, 8)
    assert (data.inputs[0] == np.array(GREEN)[:, None, None]).all()
    squeezed = load(tmp_path, geometry=Geometry((8, 8), resize=(8, 8), resample=0)).inputs[0]
    assert squeezed[:, 4, 0].tolist() == list(RED)
    assert squeezed[:, 4, 7].tolist() == list(BLUE)


def test_images_of_the_right_size_are_taken_as_they_are(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(noise).save(tmp_path / "a" / "1.png")
    data = load(tmp_path, geometry=Geometry((8, 8), resize=10))
    assert np.array_equal(data.inputs[0].permute(1, 2, 0), noise)


def test_many_images_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        paint(tmp_path / "a" / f"{number}.png", (number, 0, 0))
    in_memory = load(tmp_path)
    monkeypatch.setattr(images, "IN_MEMORY", 100)
    in_file = load(tmp_path)
    assert in_file.sha256() == in_memory.sha256()
    monkeypatch.setattr(images.os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(WorkloadError, match=r"5 decoded images take .* No space left"):
        load(tmp_path)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_images_that_are_refused_are_named(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / "a" / "1.png"
    paint(path)
    cases = {
        "truncated.jpg": "truncated.jpg: cannot be decoded: .*truncated",
        "text.png": "text.png: cannot be decoded",
        "deep.png": "deep.png: has more than 8 bits per channel",
        "other.png": r"other.png: is 9×8, 1.png is 8×8, and it is not known",
    }
    for name, message in cases.items():
        bad = tmp_path / "a" / name
        if name == "truncated.jpg":
            noise.save(bad)
            damage(bad)
        elif name == "deep.png":
            Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(bad)
        elif name == "other.png":
            paint(bad, size=(9, 8))
        else:
            bad.write_text("hello")
        with pytest.raises(WorkloadError, match=message):
            load(tmp_path)
        bad.unlink()


@pytest.mark.parametrize("most", [100, 40])  # above it Pillow warns; above twice of it, it raises
def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    paint(tmp_path / "a" / "1.png", size=(12, 12))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(WorkloadError, match=f"1.png: has more than {most} pixels"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [([], "has no folders"), (["1.png"], "has no folders"), (["a/1.png", "b/1.txt"], "the folder 'b' has no images")],
)
def test_folders_that_are_none(tmp_path: Path, layout: list[str], message: str) -> None:
    for name in layout:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FaultcliError, match=message):
        load(tmp_path)


def test_options_have_to_make_sense(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png")
    for options, message in {
        ",split=train": "have splits",
        ",size=3": "unknown option 'size'",
        ",offset=x": "is no whole number",
        ",offset=-1": "makes label -1",
    }.items():
        with pytest.raises(WorkloadError, match=message):
            load(tmp_path, options)
    with pytest.raises(WorkloadError, match=r"only images:DIR takes a file of classes"):
        load_data("digits,classes=x.csv")


def test_without_pillow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(WorkloadError, match="needs Pillow") as info:
        load(tmp_path)
    assert info.value.remedy == install("images")
