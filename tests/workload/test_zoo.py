"""torchvision and timm: found by name where they work, and a clear word where they do not."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import faultcli as fc
from faultcli.errors import FaultcliError, UsageError, WorkloadError, install
from faultcli.workload.classifier import Workload
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.loading import load_model


def works(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError, OSError):
        return False
    return True


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_it_is_said_what_to_install(package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(WorkloadError, match=f"--arch {package}:resnet18 needs {package}") as info:
        resolve_architecture(f"{package}:resnet18", {})
    assert info.value.remedy == install(package)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_torchvision_that_does_not_fit_torch_is_explained(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `import torchvision` raises on a CPU build of torch, when the wheel is the one for CUDA."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    failing = "import torch\ntorch.library.impl('torchvision::nms', 'Meta')(print)\ntorch.ops.torchvision.nms()\n"
    (tmp_path / "torchvision" / "__init__.py").write_text(failing)
    (tmp_path / "timm.py").write_text("import torchvision\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        WorkloadError, match=f"--arch {package}:resnet18: torchvision does not fit this torch: "
    ) as info:
        resolve_architecture(f"{package}:resnet18", {})
    assert "exported program" in (info.value.remedy or "")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
        monkeypatch.delitem(sys.modules, name)


needs_torchvision = pytest.mark.skipif(
    not works("torchvision"), reason="torchvision cannot be imported with this torch"
)
needs_timm = pytest.mark.skipif(not works("timm"), reason="timm cannot be imported with this torch")


@needs_torchvision
def test_torchvision_models_by_name() -> None:
    made = resolve_architecture("torchvision:squeezenet1_1", {})
    assert made.input_shape == (3, 224, 224)
    assert made.preprocess.mean == (0.485, 0.456, 0.406)
    assert (made.geometry.size, made.geometry.resize) == ((224, 224), 256)  # type: ignore[union-attr]
    model = load_model(made, made.build().state_dict())
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    with pytest.raises(UsageError, match="unknown torchvision model 'squeezenet'"):
        resolve_architecture("torchvision:squeezenet", {})


@needs_timm
def test_timm_models_by_name() -> None:
    made = resolve_architecture("timm:mobilenetv3_small_050", {})
    assert made.input_shape == (3, 224, 224)
    model = load_model(made, made.build().state_dict())
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    with pytest.raises(UsageError, match="unknown timm model 'mobilenetv3_none'"):
        resolve_architecture("timm:mobilenetv3_none", {})


def logits_of(model: Path, data: str, **options: Any) -> tuple[Tensor, list[str]]:
    workload = fc.Subject.open(model, data, device="cpu", **options).workload
    assert isinstance(workload, Workload)
    return workload.logits(), workload.doubts()


def images(path: Path, size: int, channels: int = 3) -> str:
    shape = (3, size, size) if channels == 1 else (3, size, size, channels)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_file({"images": pixels, "labels": torch.arange(3)}, path)
    return str(path)


def scaled(path: str, mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> Tensor:
    from safetensors.torch import load_file

    pixels = load_file(path)["images"].float() / 255
    channels_first = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    shape = (1, -1, 1, 1)
    return (channels_first - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = sum(MEAN) / 3, sum(STD) / 3


def torchvision_model(name: str, **options: Any) -> nn.Module:
    return importlib.import_module("torchvision.models").get_model(name, **options)  # type: ignore[no-any-return]


def timm_model(name: str, **options: Any) -> nn.Module:
    return importlib.import_module("timm").create_model(name, **options)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("zoo", "name", "channels", "size"),
    [
        pytest.param("torchvision", "shufflenet_v2_x0_5", 3, 64, marks=needs_torchvision),
        pytest.param("torchvision", "squeezenet1_1", 1, 64, marks=needs_torchvision),
        pytest.param("torchvision", "regnet_y_400mf", 3, 32, marks=needs_torchvision),
        pytest.param("timm", "mobilenetv3_small_050", 3, 64, marks=needs_timm),
        pytest.param("timm", "mobilenetv3_small_050", 1, 64, marks=needs_timm),
    ],
)
def test_classes_and_channels_are_those_of_the_checkpoint(
    zoo: str, name: str, channels: int, size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    if zoo == "timm":
        model = timm_model(name, num_classes=5, in_chans=channels)
    else:
        model = torchvision_model(name, num_classes=5)
        if channels == 1:
            model.features[0] = nn.Conv2d(1, 64, 3, stride=2)  # type: ignore[index,operator]
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    data = images(tmp_path / "d.safetensors", size, channels)
    logits, notes = logits_of(tmp_path / "m.safetensors", data, arch=f"{zoo}:{name}")
    with torch.inference_mode():
        expected = model.eval()(scaled(data, *(GREY if channels == 1 else (MEAN, STD))))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert [note for note in notes if f"inputs are {size}×{size}; {zoo}:{name} is usually given 224×224" in note]
    assert bool([note for note in notes if "takes 1 channel; mean and std are the averages" in note]) == (channels == 1)


@needs_torchvision
@pytest.mark.parametrize("heads", [True, False])
def test_heads_that_helped_in_training_are_built_if_the_checkpoint_has_them(heads: bool, tmp_path: Path) -> None:
    model = torchvision_model("googlenet", num_classes=4, init_weights=False, transform_input=True)
    state = {key: value for key, value in model.state_dict().items() if heads or not key.startswith("aux")}
    save_file(state, tmp_path / "m.safetensors")
    data = images(tmp_path / "d.safetensors", 64)
    logits, notes = logits_of(tmp_path / "m.safetensors", data, arch="torchvision:googlenet")
    with torch.inference_mode():
        torch.testing.assert_close(logits, model.eval()(scaled(data, MEAN, STD)), rtol=1e-4, atol=1e-5)
    assert [note for note in notes if "normalised a second time by the network itself" in note]


@needs_timm
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18.nonsense", "unknown timm model 'resnet18.nonsense'"),
        ("hf-hub:timm/resnet18", "unknown timm model 'hf-hub:timm/resnet18'"),
        ("resnet18,depth=3", "'depth=3' is no option of a timm model"),
        ("resnet18,num_classes=0", "num_classes is '0'"),
        ("resnet18,img_size=64", "cannot be built: .*unexpected keyword argument 'img_size'"),
    ],
)
def test_spellings_of_timm_that_are_none(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as info:
        resolve_architecture(f"timm:{spec}", {"conv1.weight": (64, 3, 7, 7)})
    assert info.value.remedy
    if "nonsense" in spec:
        assert "resnet18.a1_in1k" in info.value.remedy


@needs_timm
def test_what_is_asked_for_counts_more_than_what_the_checkpoint_shows() -> None:
    shapes = {key: tuple(value.shape) for key, value in timm_model("resnet18", num_classes=6).state_dict().items()}
    assert resolve_architecture("timm:resnet18,num_classes=6", shapes).num_classes == 6
    asked = resolve_architecture("timm:resnet18,num_classes=5", shapes)
    with pytest.raises(WorkloadError, match="of another shape"):
        load_model(asked, {key: torch.zeros(shape) for key, shape in shapes.items()})
    with pytest.raises(WorkloadError, match="is a far larger network than the checkpoint's 1 tensors"):
        resolve_architecture("timm:resnet152", {"fc.weight": (6, 2048)})


NAME = "mobilenetv3_small_050"
TRAINED_ON: dict[str, Any] = {
    "input_size": [3, 96, 64],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.5, 0.6, 0.7],
    "crop_pct": 0.8,
    "interpolation": "bilinear",
    "crop_mode": "squash",
}


def pushed(directory: Path, config: Any, prefix: str = "") -> nn.Module:
    """What timm writes for the hub, and transformers of a wrapped network."""
    directory.mkdir()
    torch.manual_seed(0)
    model = timm_model(NAME, num_classes=3)
    save_file({prefix + key: value for key, value in model.state_dict().items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return model


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "pushed": ({"architecture": NAME, "num_classes": 3, "global_pool": "avg", "pretrained_cfg": TRAINED_ON}, ""),
    "tagged": ({"architecture": f"{NAME}.mine", "num_classes": 3, "pretrained_cfg": {**TRAINED_ON, "tag": "mine"}}, ""),
    "flat": ({"architecture": NAME, "num_classes": 3, **TRAINED_ON}, ""),
    "wrapped": (
        {"architecture": NAME, "model_type": "timm_wrapper", "num_classes": 3, "pretrained_cfg": TRAINED_ON},
        "timm_model.",
    ),
    "built otherwise": (
        {
            "architecture": NAME,
            "model_args": {
                "drop_rate": 0.1,
                "pretrained": True,
                "checkpoint_path": "/nowhere",
                "cache_dir": "/nowhere",
            },
            "pretrained_cfg": TRAINED_ON,
        },
        "",
    ),
}


@needs_timm
@pytest.mark.parametrize("kind", CONFIGS)
def test_directories_that_timm_wrote(kind: str, tmp_path: Path) -> None:
    config, prefix = CONFIGS[kind]
    model = pushed(tmp_path / "m", config, prefix)
    data = images(tmp_path / "d.safetensors", 64)
    logits, _ = logits_of(tmp_path / "m", data)
    with torch.inference_mode():
        expected = model.eval()(scaled(data, tuple(TRAINED_ON["mean"]), tuple(TRAINED_ON["std"])))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    made = resolve_architecture("hf", {}, directory=tmp_path / "m")
    assert made.geometry is not None
    assert (made.geometry.size, made.geometry.resize, made.geometry.resample) == ((96, 64), (120, 80), 2)


@needs_timm
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(architecture="nothing_such"), "timm has no network 'nothing_such'"),
        (
            lambda config: config.update(architecture="hf-hub:timm/x"),
            "timm has no network 'hf-hub:timm/x'",
        ),
        (lambda config: config.update(num_classes=0), "is a network without a head"),
        (lambda config: config["pretrained_cfg"].update(mean="bright"), "config.json: cannot be used"),
        (lambda config: config["pretrained_cfg"].update(interpolation="magic"), "config.json: cannot be used"),
        (lambda config: config.update(model_args={"no_such": 1}), "config.json: cannot be used"),
        (lambda config: config.update(architecture="resnet152"), "is a far larger network than the checkpoint's"),
    ],
)
def test_directories_of_timm_that_cannot_be_used(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIGS["pushed"][0]))
    change(config)
    pushed(tmp_path / "m", config)
    with pytest.raises(FaultcliError, match=message):
        logits_of(tmp_path / "m", images(tmp_path / "d.safetensors", 64))


def test_a_directory_of_timm_says_what_to_install(tmp_path: Path) -> None:
    if importlib.util.find_spec("timm") is not None:
        pytest.skip("timm is installed")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "num_classes": 3}))
    with pytest.raises(WorkloadError, match=f"timm:{NAME} needs timm") as info:
        resolve_architecture(None, {}, directory=tmp_path, is_directory=True)
    assert info.value.remedy == install("timm")
