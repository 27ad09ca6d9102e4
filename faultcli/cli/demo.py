"""faultcli demo: the embedded demo as files."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

from faultcli.cli import options
from faultcli.cli.console import note, say
from faultcli.cli.places import WRITES, writes


def demo(
    output: Annotated[
        Path, options.output("DIR", "Folder to write to; made where there is none.", "--output", "-o"), WRITES
    ],
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the embedded demo as files, for commands that need some: model.safetensors and data.npz.

    What the other commands say about these is what they say about the demo when no MODEL is named.

    Example: faultcli demo -o demo
    """
    from faultcli.workload.demo import demo_files

    files = demo_files()
    model, data = (writes("--output", output / name) for name in files)
    _write(output, files, force=force)
    say(
        f"{model}: a network that reads handwritten digits, digits-cnn",
        f"{data}: 500 digits that it has not seen, as arrays images and labels",
    )
    measure = f"{shlex.quote(str(model))} --data {shlex.quote(str(data))}"
    note(f"try: faultcli evaluate {measure}", quiet=quiet)
    note(f"     faultcli campaign {measure} --ber 1e-4 --format q2.5", quiet=quiet)
    note(f"     faultcli inject {shlex.quote(str(model))} --ber 1e-4", quiet=quiet)


def _write(folder: Path, files: dict[str, bytes], *, force: bool) -> None:
    """Make a folder that appears with all files in it; in one that is there, look at every place before the first."""
    from faultcli.files import atomic_directory, atomic_output, check_output

    if not os.path.lexists(folder):
        with atomic_directory(folder) as partial:
            for name, content in files.items():
                (partial / name).write_bytes(content)
        return
    for name in files:
        check_output(folder / name, force=force)
    for name, content in files.items():
        with atomic_output(folder / name, force=force) as partial:
            partial.write_bytes(content)
