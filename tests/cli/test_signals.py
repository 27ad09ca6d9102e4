"""A command that a signal ends half-way leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faultcli.workload.demo import demo_checkpoint_path

# The signal comes from the process itself, in the middle of writing: nothing has to be waited for.
STRUCK = """
import os, sys
from faultcli import cli, injection
number = int(sys.argv.pop())
def strike(*_):
    print(*os.listdir("."), flush=True)
    os.kill(os.getpid(), number)
injection._corrupt = strike
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_what_is_half_written(number: int, tmp_path: Path) -> None:
    shutil.copy(demo_checkpoint_path(), tmp_path / "model.safetensors")
    (tmp_path / "out").write_text("precious")
    inject = ["inject", "model.safetensors", "--ber", "1e-4", "-o", "out", "--force", "--save-faults", "map"]
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, *inject, str(number)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ".faultcli-" in done.stdout
    assert done.returncode == 128 + number
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "out"]
    assert (tmp_path / "out").read_text() == "precious"


def test_a_signal_after_the_result_does_not_change_the_code() -> None:
    """The interpreter takes itself down for a while, and gives signals back to the system first."""
    late = "import atexit, os; atexit.register(os.kill, os.getpid(), 15); from faultcli import cli; cli.main()"
    at_the_very_end = (
        "import os, sys\nclass Late:\n    def __del__(self, kill=os.kill, pid=os.getpid()):\n        kill(pid, 15)\n"
        "sys.late = Late()\nfrom faultcli import cli\ncli.main()"
    )
    for code in (late, at_the_very_end):
        done = subprocess.run(
            [sys.executable, "-c", code, "inspect", "--formats"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "fp16" in done.stdout
