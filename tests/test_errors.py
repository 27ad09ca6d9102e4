"""What remedies have in common."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from faultcli import errors

ROOT = Path(__file__).parents[1]


def test_a_checkout_is_what_to_install_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a folder's name"
    source.mkdir()
    monkeypatch.setattr(errors, "_SOURCE", source)
    assert errors.install("timm") == "pip install 'faultcli[timm]'"
    (source / "pyproject.toml").touch()
    words = shlex.split(errors.install("timm"))
    assert words == ["pip", "install", "-c", f"{source}/constraints.txt", f"{source}[timm]"]


def test_this_checkout_has_what_is_named() -> None:
    words = shlex.split(errors.install("hf"))
    assert Path(words[3]).is_file()
    assert Path(words[4].removesuffix("[hf]")) == ROOT


def test_nothing_else_says_how_to_install() -> None:
    """And what is said to be installed exists."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for path in (ROOT / "faultcli").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert path.name == "errors.py" or "pip install" not in text, path
        assert set(re.findall(r'\binstall\("(\w+)"\)', text)) <= set(extras), path


# What FormatErrors and CorrectorErrors say is completed where the checkpoint is known, or is for programs.
_ALWAYS = {"UsageError", "CheckpointError", "OutputError", "FaultError", "WorkloadError", "StoreError"}


def test_every_mistake_has_a_remedy() -> None:
    for path in (ROOT / "faultcli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ALWAYS:
                assert len(node.args) == 2, f"{path}:{node.lineno}: {ast.unparse(node)}"
