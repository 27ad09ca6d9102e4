"""Examples are short and run."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from faultcli.checkpoint import Checkpoint
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.demo import demo_checkpoint_path

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if not path.name.startswith("reproduce_"))
LONGER = {"read_hardened.py": 185}  # a decoder of its own
QUICK = ["inject_and_measure.py"]  # run here as they are, with a directory to write to


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_short_and_documented(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGER.get(script.name, 65)
    assert text.startswith('"""')
    assert f"python examples/{script.name}" in text
    compile(text, script.name, "exec")


@pytest.mark.parametrize("name", QUICK)
def test_quick_ones_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    torch.set_num_threads(1)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert "injected: 119 of 1,221,120 bits, 119 values" in printed
    assert "clean: 99.2% of 500 images" in printed
    assert "restored every byte: True" in printed
    assert re.search(r"^q2\.5 bitflip:0\.0001: \d+\.\d%", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "needs", "said"),
    [
        ("score_regression.py", "torch", r"inplace=1: R² 0\.9[89]\d* \[.*\], pass after \d+ trials"),
        ("score_segmentation.py", "torchmetrics", r"scale=max,guard: IoU 0\.9\d* \[.*\], SDC \d\.\d%, DUE 0\.0%"),
        ("score_detection.py", "pycocotools", r"inplace=1: mAP 0\.\d+ \[.*\], at half overlap 0\.\d+: pass"),
    ],
)
def test_tasks_with_a_score_of_their_own(name: str, needs: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(needs)
    torch.set_num_threads(1)
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 60
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert re.search(said, capsys.readouterr().out)


def test_a_corrector_beside_a_deployed_model(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    runpy.run_path(str(EXAMPLES / "deployed_corrector.py"), run_name="__main__")
    found = re.search(r"^damaged: (.*)%, corrected: (.*)% of 250 images$", capsys.readouterr().out, re.MULTILINE)
    assert found is not None
    assert float(found[2]) > float(found[1]) + 20


def test_train_digits_makes_a_demo(tmp_path: Path) -> None:
    """The embedded images exactly; and, with a fifth of the epochs, weights that are nearly as good."""
    pytest.importorskip("sklearn")
    script = runpy.run_path(str(EXAMPLES / "train_digits.py"))
    script["main"].__globals__["EPOCHS"] = 12
    script["main"](tmp_path)
    assert (tmp_path / "digits.npz").read_bytes() == (demo_checkpoint_path().parent / "digits.npz").read_bytes()
    trained, shipped = (Checkpoint.open(path) for path in (tmp_path / "digits-cnn.safetensors", demo_checkpoint_path()))
    assert trained.metadata == shipped.metadata
    assert {key: info.shape for key, info in trained.tensors.items()} == {
        key: info.shape for key, info in shipped.tensors.items()
    }
    assert build_workload(trained.state(), trained.metadata, WorkloadSpec(data="digits")).outcome().top1 >= 0.97


def test_the_shipped_demo_is_good() -> None:
    shipped = Checkpoint.open(demo_checkpoint_path())
    assert build_workload(shipped.state(), shipped.metadata, WorkloadSpec(data="digits")).outcome().top1 >= 0.97


def test_the_tables_of_weight_scaling_are_filled_and_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    run = runpy.run_path(str(EXAMPLES / "reproduce_scaling.py"))["main"]

    def table(trials: int) -> str:
        asked = f"--data digits --limit 100 --ber 1e-3,1e-2 --trials {trials} --store {tmp_path / 'runs'}"
        output = tmp_path / "table.md"
        monkeypatch.setattr(sys, "argv", ["", str(demo_checkpoint_path()), *asked.split(), "-o", str(output)])
        run()
        assert capsys.readouterr().out == output.read_text(encoding="utf-8")
        return output.read_text(encoding="utf-8")

    first = table(1)
    lines = [line.strip("| ").split(" | ") for line in first.splitlines()]
    assert lines[0][-2:] == ["1e-3", "1e-2"]
    chains = {"fp32": "inplace=8", "fp16": "inplace=4", "q2.5": "scale=max:channel,inplace=2"}
    expected = [(form, f"`{chain}`") for form, best in chains.items() for chain in ("none", "scale=max", best)]
    assert [(form, chain) for _, _, form, chain, *_ in lines[2:]] == expected
    accuracy = {(form, chain): float(cells[-1]) for _, _, form, chain, *cells in lines[2:]}
    assert all(accuracy[form, f"`{best}`"] > accuracy[form, "`none`"] + 30 for form, best in chains.items())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert sorted(path.name for path in kept) == [f"digits-cnn-{form}.sqlite" for form in sorted(chains)]
    assert table(1) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was run again
    assert "[" not in first
    assert all("[" in line for line in table(2).splitlines()[2:])
