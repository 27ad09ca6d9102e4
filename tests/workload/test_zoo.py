"""torchvision and timm: found by name where they work, and a clear word where they do not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from faultcli.errors import UsageError, WorkloadError, install
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


@pytest.mark.skipif(not works("torchvision"), reason="torchvision cannot be imported with this torch")
def test_torchvision_models_by_name() -> None:
    made = resolve_architecture("torchvision:squeezenet1_1", {})
    assert made.input_shape == (3, 224, 224)
    assert made.preprocess.mean == (0.485, 0.456, 0.406)
    assert (made.geometry.size, made.geometry.resize) == ((224, 224), 256)  # type: ignore[union-attr]
    model = load_model(made, made.build().state_dict())
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    with pytest.raises(UsageError, match="unknown torchvision model 'squeezenet'"):
        resolve_architecture("torchvision:squeezenet", {})


@pytest.mark.skipif(not works("timm"), reason="timm cannot be imported with this torch")
def test_timm_models_by_name() -> None:
    made = resolve_architecture("timm:mobilenetv3_small_050", {})
    assert made.input_shape == (3, 224, 224)
    model = load_model(made, made.build().state_dict())
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    with pytest.raises(UsageError, match="unknown timm model 'mobilenetv3_none'"):
        resolve_architecture("timm:mobilenetv3_none", {})
