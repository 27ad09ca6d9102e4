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
# Each command is a fork of one process that has loaded PyTorch, in the folder that is named after its signal.
STRUCK = """
import os, sys
from faultcli import cli, injection
folders, words = sys.argv[1].split(","), sys.argv[2:]
def strike(*_):
    print(*os.listdir("."), flush=True)
    os.kill(os.getpid(), int(os.path.basename(os.getcwd())))
injection._corrupt = strike
for folder in folders:
    child = os.fork()
    if not child:
        os.chdir(folder)
        sys.argv = ["faultcli", *words]
        cli.main()
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_signal_removes_what_is_half_written(tmp_path: Path) -> None:
    numbers = [int(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    for number in numbers:
        (tmp_path / str(number)).mkdir()
        shutil.copy(demo_checkpoint_path(), tmp_path / str(number) / "model.safetensors")
        (tmp_path / str(number) / "out").write_text("precious")
    inject = ["inject", "model.safetensors", "--ber", "1e-4", "-o", "out", "--force", "--save-faults", "map"]
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, ",".join(map(str, numbers)), *inject],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    struck, ended = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    assert all(".faultcli-" in line for line in struck)
    assert ended == [f"ended {128 + number}" for number in numbers]
    assert "Traceback" not in done.stderr
    for number in numbers:
        assert sorted(os.listdir(tmp_path / str(number))) == ["model.safetensors", "out"]
        assert (tmp_path / str(number) / "out").read_text() == "precious"


def test_a_signal_after_the_result_does_not_change_the_code() -> None:
    """The interpreter takes itself down for a while, and gives signals back to the system first."""
    late = "import atexit, os; atexit.register(os.kill, os.getpid(), 15); from faultcli import cli; cli.main()"
    at_the_very_end = (
        "import os, sys\nclass Late:\n    def __del__(self, kill=os.kill, pid=os.getpid()):\n        kill(pid, 15)\n"
        "sys.late = Late()\nfrom faultcli import cli\ncli.main()"
    )
    for code in (late, at_the_very_end):
        done = subprocess.run(
            [sys.executable, "-c", code, "--version"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("faultcli ")
