"""Commands in processes of their own that need not load PyTorch first: each is a fork of one that has.

server.py    the process that has loaded everything, and forks
client.py    `faultcli` on the path: hands its streams, folder and environment over, and ends as the fork does
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


@contextmanager
def warm_programs(folder: Path) -> Iterator[Path]:
    """Start the server and give the folder to put on the path: `faultcli` there is a fork that starts at once.

    What it cannot show is how an interpreter starts: limits (`ulimit`), locales, files that are open beside the
    standard streams, a terminal's process group, and what modules read of the environment when they are loaded. Such
    tests take the program that is installed.
    """
    programs = folder / "programs"
    programs.mkdir()
    socket = folder / "s"
    (programs / "faultcli").write_text(f'#!/bin/sh\nexec {sys.executable} -IS {HERE / "client.py"} {socket} "$@"\n')
    (programs / "faultcli").chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "server.py"), str(socket)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield programs
        server.communicate()  # closes its standard input, upon which it ends
