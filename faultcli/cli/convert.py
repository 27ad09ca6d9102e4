"""faultcli convert: a checkpoint of another kind as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note, say, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.places import READS, WRITES, writes

_SHOWN = 5


@grouped
def convert(
    *,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A pickle checkpoint (.pt, .pth, .ckpt, .bin), an .npz, or a directory with pytorch_model.bin.",
            show_default=False,
        ),
        READS,
    ],
    key: Annotated[
        str | None,
        options.output("KEY", "Which dict of tensors, as in --key model or --key ema.module.", default="the only one"),
    ] = None,
    output: Annotated[
        Path | None,
        options.written_to("FILE.safetensors beside FILE; of a directory DIR.converted"),
        WRITES,
    ] = None,
    shown: options.Overwriting,
) -> None:
    """Make safetensors of a PyTorch checkpoint, without running anything that it names.

    Optimizer states and the like are left out; tensors that are the same memory are written once. Example: faultcli
    convert model.pt
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.checkpoint.other_formats import quoted
    from faultcli.conversion.writing import convert as run
    from faultcli.conversion.writing import is_directory
    from faultcli.errors import CheckpointError, UsageError
    from faultcli.report.text import counted

    if not source.exists():
        raise CheckpointError(f"{source}: no such file or directory", "check the path")
    into_directory = is_directory(source)
    if into_directory and key is not None:
        raise UsageError("--key: of a directory, all is taken", "leave it out, or name one file")
    folder = source if source.is_dir() else source.parent
    default = folder.resolve().with_name(f"{folder.resolve().name}.converted")
    written = output or writes("--output", default if into_directory else source.with_suffix(".safetensors"))
    done = run(source, written, key=key, force=shown.force)
    Checkpoint.open(written)  # what is said to be a checkpoint is one
    write_json(
        {
            "schema": "faultcli.convert/1",
            "output": str(written),
            "key": done.key or None,
            "tensors": done.tensors,
            "bytes": done.nbytes,
            "tied": done.tied,
            "left_out": done.left_out,
        },
        shown.json,
    )
    if shown.json != "-":
        taken = f", from {done.key}" if done.key else ""
        say(f"{written}: {counted(done.tensors, 'tensor')}, {done.nbytes:,} bytes{taken}")
    if done.tied:
        same = [f"{name} (same memory as {kept})" for name, kept in done.tied.items()]
        note(f"written once: {_few(same)}", quiet=shown.quiet)
    if done.left_out:
        note(f"left out: {_few([f'{n} ({kind})' for n, kind in done.left_out.items()])}", quiet=shown.quiet)
    if done.beside is not None:
        note(done.beside, quiet=shown.quiet)
    note(f"look at it: faultcli inspect {quoted(written)}", quiet=shown.quiet)


def _few(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
