"""faultcli merge: one store of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note
from faultcli.cli.places import READS, WRITES
from faultcli.report.text import counted


def merge(
    stores: Annotated[
        list[Path],
        typer.Argument(metavar="STORE...", help="Stores that `campaign --store` wrote.", show_default=False),
        READS,
    ],
    output: Annotated[Path, options.output("STORE", "Where to write.", "--output", "-o"), WRITES],
    force: options.Force = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
) -> None:
    """Join the stores of a campaign's parts into one.

    Trials that several stores hold are kept once; stores of different campaigns are refused. The same `campaign`
    command with the joined store decides the gates.

    Example: faultcli merge part-1.sqlite part-2.sqlite -o all.sqlite
    """
    from faultcli.campaign import merge as joining
    from faultcli.files import atomic_output

    with atomic_output(output, force=force, inputs=stores) as partial:
        done = joining.merge(stores, partial, str(output))
    repeats = f", {done.repeats:,} of them in several stores" if done.repeats else ""
    note(f"{output}: {counted(done.trials, 'trial')} in {counted(done.arms, 'arm')}{repeats}", quiet=quiet)
