"""What faultcli makes of an image, held to transformers' own image processors that compute with Pillow: all that image
classifiers have, on images of several shapes, as they come and with every key changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from faultcli.errors import WorkloadError
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.images import read_images
from faultcli.workload.models.hf_processor import preprocessing
from faultcli.workload.models.hf_processors import PROCESSORS
from faultcli.workload.models.huggingface import hugging_face_architecture
from faultcli.workload.preprocess import Geometry, Preprocess

transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

LAST_ROUNDING = 2e-6  # float32 around 1 to 4, scaled and normalised in another order; pixels themselves are equal
DONE = sorted(name for name, kind in PROCESSORS.items() if kind.refused is None)
COMPARED = [name for name in DONE if name != "PPLCNetImageProcessor"]  # that one computes with torchvision alone
SHAPES = {"landscape": (40, 30), "portrait": (31, 53), "small": (17, 13), "odd": (25, 27), "strip": (90, 11)}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder for every picture: of several shapes, grey, transparent, of a palette with a transparent colour."""
    noise = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")

    def picture(width: int, height: int) -> Any:
        rough = noise.integers(0, 256, (9, 11, 4), dtype=np.uint8)
        return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)

    made = {name: picture(*size).convert("RGB") for name, size in SHAPES.items()}
    made |= {"grey": picture(29, 37).convert("L"), "transparent": picture(33, 28)}
    made["palette"] = picture(26, 34).convert("RGB").convert("P")
    for name, image in made.items():
        (root / name / "a").mkdir(parents=True)
        options = {"transparency": 3} if name == "palette" else {}
        image.save(root / name / "a" / "1.png", **options)
    return sorted(root.iterdir())


def ours(directory: Path, folder: Path, channels: int = 3) -> torch.Tensor:
    preprocess, geometry = preprocessing(directory, SimpleNamespace(model_type="vit", num_channels=channels))
    return prepared(preprocess, geometry, folder)


def prepared(preprocess: Preprocess, geometry: Geometry | None, folder: Path) -> torch.Tensor:
    arrays = read_images(folder, geometry)
    inputs = preprocess.apply(torch.from_numpy(arrays.inputs), "NCHW")
    assert geometry is not None
    assert geometry.input_shape in (None, tuple(inputs.shape[1:]))
    return inputs[0]


def theirs(processor: Any, folder: Path) -> torch.Tensor:
    with Image.open(folder / "a" / "1.png") as image:
        given = image.copy() if processor.do_convert_rgb else image.convert("RGB")
    values: torch.Tensor = processor(given, return_tensors="pt")["pixel_values"][0]
    return values.float()


def of_class(name: str, settings: dict[str, Any]) -> Any:
    return getattr(transformers, f"{name}Pil").from_dict({"image_processor_type": name, **settings})


def write(directory: Path, name: str | None, settings: dict[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    named = {} if name is None else {"image_processor_type": name}
    (directory / "preprocessor_config.json").write_text(json.dumps({**named, **settings}))
    return directory


def assert_same(directory: Path, processor: Any, folders: list[Path], about: object = "") -> None:
    for folder in folders:
        expected, have = theirs(processor, folder), ours(directory, folder)
        assert have.shape == expected.shape, (folder.name, about)
        assert (have - expected).abs().max() <= LAST_ROUNDING, (folder.name, about)


def of_classifiers() -> dict[str, set[str]]:
    """The image processors of transformers' image classifiers, and the model types that they are for."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    found: dict[str, set[str]] = {}
    for kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        for name in (IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {}).values():
            found.setdefault(name.removesuffix("Pil"), set()).add(kind)
    return found


def test_every_processor_of_a_classifier_is_known() -> None:
    """A release of transformers that has a new one ends here; timm says itself what its networks take."""
    assert of_classifiers().keys() - PROCESSORS.keys() <= {"TimmWrapperImageProcessor"}
    assert PROCESSORS.keys() <= of_classifiers().keys(), "what no classifier has is not held to anything"


@pytest.mark.parametrize("name", DONE)
def test_defaults_and_keys_are_those_of_the_class(name: str) -> None:
    kind, cls = PROCESSORS[name], getattr(transformers, f"{name}Pil", None)
    if cls is None:
        pytest.skip("computes with torchvision alone, which is not a dependency of the tests")
    common = {"data_format", "input_data_format", "device", "return_tensors", "disable_grouping", "image_seq_length"}
    keys = set(cls.valid_kwargs.__annotations__) - common - {"do_reduce_labels"}
    assert keys - kind.keys - set(kind.always) == set()
    as_it_is = kind.settings({})
    made = cls()
    for key in kind.keys & keys:
        have, expected = as_it_is.values[key], getattr(made, key, None)
        if key in ("size", "crop_size") and have is not None:
            have, expected = as_it_is.sides(key), dict(expected)
        assert (have or None) == (expected or None), key


def small(name: str) -> dict[str, Any]:
    """Settings of a class that make small images, quick to compare."""
    defaults = PROCESSORS[name].defaults
    size: Any = {"shortest_edge": 24} if "shortest_edge" in defaults["size"] else {"height": 24, "width": 24}
    if name == "DonutImageProcessor":
        size = {"height": 45, "width": 28}
    return {"size": size, **({"crop_size": {"height": 20, "width": 20}} if "crop_size" in defaults else {})}


CHANGES: list[dict[str, Any]] = [
    {},
    *({"resample": number} for number in range(6)),
    *({key: on} for key in ("do_resize", "do_rescale", "do_normalize") for on in (False, True)),
    *({"do_center_crop": on, "crop_size": 21} for on in (False, True)),
    *({"do_center_crop": True, "crop_size": size} for size in ([14, 22], {"height": 64, "width": 18}, 65)),
    *({"size": size} for size in (19, [22, 18], {"height": 23, "width": 31}, {"shortest_edge": 21})),
    *({"size": size} for size in ({"shortest_edge": 30, "longest_edge": 50}, {"max_height": 30, "max_width": 22})),
    *({"size": 19, "default_to_square": on} for on in (False, True)),
    *({"size": {"shortest_edge": edge}, "crop_size": 224} for edge in (383, 384)),
    {"rescale_factor": 1 / 127.5, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    {"image_mean": 0.25, "image_std": 0.5},
    {"do_normalize": False, "do_rescale": False},
    *({"do_convert_rgb": on} for on in (False, True)),
    *({"crop_pct": share} for share in (0.6, 0.875, 1.0)),
    *({"rescale_offset": True, "include_top": on} for on in (False, True)),
    *({"include_top": True, "do_normalize": on, "do_rescale": on} for on in (False, True)),
    *({"do_flip_channel_order": on} for on in (False, True)),
    *({"size_divisor": number} for number in (1, 7)),
    *(
        {"do_thumbnail": True, "do_pad": pad, "do_align_long_axis": turn}
        for pad in (False, True)
        for turn in (True, False)
    ),
    {"use_square_size": True},
    {"do_resize": None, "do_center_crop": None, "do_convert_rgb": None, "do_flip_channel_order": None},
    *({key: None} for key in ("do_rescale", "do_normalize", "crop_pct", "include_top", "default_to_square")),
    {"do_reduce_labels": True, "data_format": "channels_last", "input_data_format": "channels_first"},
    {"do_pad": True},
]


@pytest.mark.parametrize("name", COMPARED)
def test_images_are_prepared_as_transformers_does(name: str, pictures: list[Path], tmp_path: Path) -> None:
    """With every key changed; where transformers gives up, there is nothing to compare with."""
    compared = 0
    for number, change in enumerate(CHANGES):
        settings = small(name) | change
        processor = of_class(name, settings)
        some = pictures if number % 8 == 0 else [*pictures, *pictures][number % len(pictures) :][:1]
        try:
            for folder in some:
                theirs(processor, folder)
        except (ValueError, TypeError, AttributeError):
            continue
        compared += 1
        assert_same(write(tmp_path / str(number), name, settings), processor, some, settings)
    assert compared >= 35


@pytest.mark.parametrize("name", COMPARED)
def test_images_are_prepared_as_transformers_does_by_default(name: str, pictures: list[Path], tmp_path: Path) -> None:
    processor = of_class(name, {})
    processor.save_pretrained(tmp_path)
    preprocess, _ = preprocessing(tmp_path, SimpleNamespace(model_type="vit", num_channels=3))
    assert preprocess.found() == []
    assert_same(tmp_path, processor, pictures[:1] if name == "DonutImageProcessor" else pictures[:2])


# As they lie on the hub: older ones have fewer keys, and numbers for sizes; what is left out, the class says.
HUB: list[tuple[str, dict[str, Any]]] = [
    ("vit", {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 20}),
    ("vit", {"image_processor_type": "ViTFeatureExtractor", "_valid_processor_keys": ["images"], "size": 20}),
    ("vit", {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 20, "width": 22}, "device": None}),
    ("vit", {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 24}, "crop_size": 20}),
    ("swin", {"feature_extractor_type": "ViTFeatureExtractor", "resample": 3, "size": 20}),
    ("swinv2", {"do_resize": True, "size": 20, "resample": 3}),
    ("deit", {"feature_extractor_type": "DeiTFeatureExtractor", "size": 24, "crop_size": 20, "do_center_crop": True}),
    ("beit", {"crop_size": 20, "do_center_crop": False, "feature_extractor_type": "BeitFeatureExtractor", "size": 22}),
    ("data2vec-vision", {"size": 22, "resample": 2}),
    ("resnet", {"crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", "size": 21, "resample": 3}),
    ("convnext", {"crop_pct": 0.95, "image_processor_type": "ConvNextFeatureExtractor", "size": {"shortest_edge": 24}}),
    ("regnet", {"size": 24}),
    ("cvt", {"size": 24, "crop_pct": 0.875}),
    ("poolformer", {"crop_pct": 0.9, "do_resize_and_center_crop": True, "size": 21, "crop_size": 21}),
    ("levit", {"feature_extractor_type": "LevitFeatureExtractor", "size": 21, "crop_size": 20}),
    ("mobilevit", {"feature_extractor_type": "MobileViTFeatureExtractor", "size": 26, "crop_size": 22}),
    ("mobilevitv2", {"size": {"shortest_edge": 26}, "crop_size": 22, "do_flip_channel_order": True}),
    ("mobilenet_v1", {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}),
    ("mobilenet_v2", {"size": {"height": 16, "width": 16}, "resample": 3}),
    ("efficientnet", {"size": 22, "resample": 0, "include_top": True, "rescale_offset": False}),
    ("perceiver", {"crop_size": 24, "do_center_crop": True, "size": 20}),
    ("clip", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 21, "crop_size": 20}),
    ("siglip", {"size": {"height": 20, "width": 20}, "processor_class": "SiglipProcessor"}),
    ("dinov2", {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}}),
    ("focalnet", {"size": {"shortest_edge": 24}, "crop_size": 20}),
    ("hiera", {"size": {"shortest_edge": 24}, "crop_size": 20}),
    ("pvt", {"size": {"height": 20, "width": 20}}),
    ("pvt_v2", {"size": 20}),
    ("swiftformer", {"size": 20}),
    ("textnet", {"size": {"shortest_edge": 24}}),
    ("segformer", {"size": 20, "reduce_labels": False, "do_reduce_labels": False}),
    ("donut-swin", {"size": [28, 45], "do_pad": True}),
]


@pytest.mark.parametrize(("kind", "content"), HUB, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(HUB)])
def test_files_of_every_age_are_read_as_transformers_reads_them(
    kind: str, content: dict[str, Any], pictures: list[Path], tmp_path: Path
) -> None:
    write(tmp_path, None, content)
    config = transformers.AutoConfig.for_model(kind)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, config=config, backend="pil")
    preprocess, geometry = preprocessing(tmp_path, config)
    assert preprocess.found() == []
    for folder in pictures[::3]:
        expected, have = theirs(processor, folder), prepared(preprocess, geometry, folder)
        assert have.shape == expected.shape
        assert (have - expected).abs().max() <= LAST_ROUNDING


def test_a_processor_of_several_parts_goes_first(tmp_path: Path, pictures: list[Path]) -> None:
    write(tmp_path, "ViTImageProcessor", {"size": 18})
    part = {"image_processor_type": "CLIPImageProcessor", "size": 24, "crop_size": 20}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": part, "processor_class": "X"}))
    assert_same(tmp_path, of_class("CLIPImageProcessor", part), pictures[:2])
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert_same(tmp_path, of_class("ViTImageProcessor", {"size": 18}), pictures[:2])
    (tmp_path / "processor_config.json").write_text("{")
    assert "processor_config.json: cannot be used" in refusal(tmp_path, pictures[0])


def refusal(directory: Path, folder: Path, kind: str = "vit") -> str:
    """Return why images are refused; inputs that are prepared already pass all the same."""
    preprocess, geometry = preprocessing(directory, SimpleNamespace(model_type=kind, num_channels=3))
    with pytest.raises(WorkloadError) as info:
        read_images(folder, geometry)
    with pytest.raises(WorkloadError) as same:
        preprocess.apply(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "NCHW")
    assert preprocess.apply(torch.ones(1, 3, 4, 4), "NCHW").max() == 1
    assert (info.value.message, info.value.remedy) == (same.value.message, same.value.remedy)
    assert info.value.remedy
    return info.value.message


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ImageGPTImageProcessor", {"clusters": [[0.0] * 3]}, "ImageGPTImageProcessor makes a picture of numbers"),
        ("Siglip2ImageProcessor", {}, "Siglip2ImageProcessor cuts an image into patches"),
        ("NewImageProcessor", {}, "the image processor 'NewImageProcessor' is not known here"),
        ("MyProcessor", {"auto_map": {"AutoImageProcessor": "evil.My"}}, "'MyProcessor' is code that came with"),
        ("ViTImageProcessor", {"do_sharpen": True, "angle": 3}, "asks for angle, do_sharpen, which is not done here"),
        ("ViTImageProcessor", dict.fromkeys("abcde", 1), "asks for a, b, c and 2 more, which is not done here"),
        ("PoolFormerImageProcessor", {"do_resize_and_center_crop": False}, "asks for do_resize_and_center_crop"),
        ("ViTImageProcessor", {"do_pad": True, "pad_size": 300}, "do_pad to 300×300 after normalising"),
        ("ViTImageProcessor", {"size": {"longest_edge": 9}}, "size is {'longest_edge': 9}, which is no size"),
        ("ViTImageProcessor", {"size": "large"}, "size height is 'large', not a number of pixels"),
        ("ViTImageProcessor", {"size": 1 << 20}, "not a number of pixels from 1 to 16384"),
        ("ViTImageProcessor", {"resample": "bicubic"}, "resample is 'bicubic', which is none of the filters 0 to 5"),
        ("ViTImageProcessor", {"resample": 6}, "resample is 6, which is none of the filters"),
        ("ViTImageProcessor", {"do_resize": "no"}, "do_resize is 'no', neither true nor false"),
        ("ViTImageProcessor", {"image_mean": "grey"}, "image_mean is 'grey', which are no numbers"),
        ("ViTImageProcessor", {"image_std": [0, 0, 0]}, "std has to be positive"),
        ("ViTImageProcessor", {"rescale_factor": "1/255"}, "rescale_factor is '1/255', which is no number"),
        ("ViTImageProcessor", {"do_center_crop": True, "resample": None}, "crop_size is None, which is no size"),
        ("ConvNextImageProcessor", {"size": 224, "crop_pct": 1e-300}, "not a number of pixels"),
        ("ConvNextImageProcessor", {"size": 224, "crop_pct": 0}, "crop_pct is 0.0, not more than 0"),
        ("PerceiverImageProcessor", {"size": {"shortest_edge": 9}}, "a height and a width are needed"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    name: str, settings: dict[str, Any], message: str, pictures: list[Path], tmp_path: Path
) -> None:
    found = refusal(write(tmp_path, name, settings), pictures[0])
    assert found.startswith(f"{tmp_path / 'preprocessor_config.json'}: ")
    assert message in found


def test_a_processor_without_a_name_for_a_model_that_has_none(tmp_path: Path, pictures: list[Path]) -> None:
    found = refusal(write(tmp_path, None, {"size": 9}), pictures[0], kind="hgnet_v2")
    assert "names no image_processor_type, and transformers has none for hgnet_v2" in found


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"image_mean": 1e999}'])
def test_damaged_files_are_refused(text: str, tmp_path: Path, pictures: list[Path]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    assert "preprocessor_config.json: " in refusal(tmp_path, pictures[0])


def test_what_a_class_does_not_look_at_is_said(tmp_path: Path) -> None:
    write(tmp_path, "ViTImageProcessor", {"crop_pct": 0.9, "do_flip_channel_order": True, "do_thumbnail": False})
    preprocess, _ = preprocessing(tmp_path, SimpleNamespace(model_type="vit", num_channels=3))
    (note,) = preprocess.found()
    assert note.startswith(
        f"{tmp_path / 'preprocessor_config.json'}: ViTImageProcessor does not look at crop_pct, do_flip"
    )
    assert not preprocess.reverse


def test_sizes_where_transformers_does_nothing_at_all(tmp_path: Path, pictures: list[Path]) -> None:
    """A height and a width are clear, too."""
    for name in ("ConvNextImageProcessor", "TextNetImageProcessor"):
        made = ours(write(tmp_path, name, {"size": {"height": 32, "width": 64}}), pictures[0])
        assert made.shape == (3, 32, 64)


def test_what_cannot_be_null_is_what_the_class_says(tmp_path: Path, pictures: list[Path]) -> None:
    nulls = dict.fromkeys(("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor"))
    for name in ("DeiTImageProcessor", "LevitImageProcessor"):
        assert_same(write(tmp_path, name, nulls), of_class(name, {}), pictures[:1])


def test_padding_to_the_size_that_images_have_is_nothing(tmp_path: Path, pictures: list[Path]) -> None:
    settings = {"size": 20, "do_pad": True, "pad_size": {"height": 20, "width": 20}}
    assert_same(write(tmp_path, "ViTImageProcessor", settings), of_class("ViTImageProcessor", settings), pictures[:2])


def test_grey_networks_get_one_channel(tmp_path: Path, pictures: list[Path]) -> None:
    settings = {"size": 20, "image_mean": [0.5], "image_std": [0.25]}
    made = ours(write(tmp_path, "ViTImageProcessor", settings), pictures[0], channels=1)
    grey = next(folder for folder in pictures if folder.name == "grey")
    with Image.open(grey / "a" / "1.png") as image:
        expected = of_class("ViTImageProcessor", settings)(image, return_tensors="pt")["pixel_values"][0]
    assert made.shape == (1, 20, 20)
    assert (ours(tmp_path, grey, channels=1) - expected).abs().max() <= LAST_ROUNDING


@pytest.mark.parametrize(("name", "size"), [("PPLCNetImageProcessor", (224, 224)), ("TextNetImageProcessor", None)])
def test_sizes_that_are_known_without_an_image(name: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    preprocess, geometry = preprocessing(write(tmp_path, name, {}), SimpleNamespace(model_type="vit", num_channels=3))
    assert geometry is not None
    assert (geometry.size, preprocess.reverse) == (size, name == "PPLCNetImageProcessor")


def test_overly_long_images_are_refused(tmp_path: Path) -> None:
    """A strip of a pixel in height would become gigabytes."""
    (tmp_path / "strips" / "a").mkdir(parents=True)
    Image.new("L", (40000, 1)).save(tmp_path / "strips" / "a" / "1.png")
    _, geometry = preprocessing(
        write(tmp_path / "net", "CLIPImageProcessor", {}), SimpleNamespace(model_type="vit", num_channels=3)
    )
    with pytest.raises(WorkloadError, match=r"1.png: of 40000×1 it would become 8960000×224"):
        read_images(tmp_path / "strips", geometry)


def test_without_a_processor_it_is_said_what_is_done(tmp_path: Path, pictures: list[Path]) -> None:
    config = transformers.ViTConfig(image_size=[20, 24])
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(tmp_path)
    made = hugging_face_architecture("hf", tmp_path)
    (note,) = made.preprocess.found()
    assert note.startswith(f"{tmp_path}: has no preprocessor_config.json: image files are resized to 20×24")
    assert "scaled to 0 to 1" in note
    assert "--mean and --std" in note
    images = load_data(f"images:{pictures[0]}", geometry=made.geometry)
    assert (images.item_shape, made.input_shape) == ((3, 20, 24), (3, 20, 24))
    assert made.preprocess.with_overrides(mean=[0.5]).found() == []


def test_images_that_fit_already_are_said_to_stay(tmp_path: Path, pictures: list[Path]) -> None:
    """They are what the processor would make of the originals, so a second crop would take what it should not."""
    write(tmp_path, "CLIPImageProcessor", {"size": 24, "crop_size": 20})
    _, geometry = preprocessing(tmp_path, SimpleNamespace(model_type="vit", num_channels=3))
    (tmp_path / "data" / "a").mkdir(parents=True)
    for number, size in enumerate([(20, 20), (40, 30)]):
        Image.new("RGB", size).save(tmp_path / "data" / "a" / f"{number}.png")
    kept = "are not resized and cropped again"
    notes = load_data(f"images:{tmp_path}/data", geometry=geometry).notes
    assert notes == (f"images:{tmp_path}/data: 1 of 2 images have the network's 20×20 and {kept}",)
    assert load_data(f"images:{pictures[0]}", geometry=geometry).notes == ()
