"""Most of a file left out because of its dtypes is said by every command that selects; what globs leave out is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

SAID = "not at risk: 1 of 2 matrices, 80 % of their bytes (I8); --target any takes them"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("inspect m.safetensors", True),
        ("inject m.safetensors --ber 1e-3 -o out", True),
        ("scale m.safetensors --factor 2 -o out", True),
        ("harden m.safetensors --format q2.5 -o out", True),
        ("evaluate m.safetensors --arch left_out_net:net --data d.npz", True),
        ("campaign m.safetensors --arch left_out_net:net --data d.npz --ber 1e-3 --trials 1", True),
        ("inject m.safetensors --target any --ber 1e-3 -o out", False),
        ("inject m.safetensors --exclude codes --ber 1e-3 -o out", False),
    ],
)
def test_what_is_left_out_is_said_once(
    command: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faultcli: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "left_out_net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed = nn.Parameter(torch.zeros(4, 4))\n"
        "        self.register_buffer('codes', torch.zeros(16, 16, dtype=torch.int8))\n"
        "    def forward(self, x):\n"
        "        return x @ self.embed + self.codes.sum()\n"
        "def net():\n    return Net()\n"
    )
    torch.manual_seed(0)
    state = {"embed": torch.randn(4, 4), "codes": torch.zeros(16, 16, dtype=torch.int8)}
    save_file(state, "m.safetensors")
    save_file({"inputs": torch.randn(6, 4), "labels": torch.arange(6) % 4}, "d.safetensors")
    done = faultcli(*command.replace("d.npz", "d.safetensors").split())
    assert done.code == 0, done.err
    assert done.err.count(SAID) == expected, done.err
