"""faultcli inject: write a corrupted checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.groups import AtRisk, OneFault, Output
from faultcli.cli.places import READS, WRITES, writes
from faultcli.report.text import counted


@dataclass(frozen=True)
class Drawn(OneFault):
    """Which faults."""

    seed: options.Seed = 0
    trial: Annotated[
        int,
        typer.Option(metavar="N", help="Take the faults of this trial of a campaign.", rich_help_panel=options.FAULTS),
    ] = 0
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Apply a saved fault map instead of drawing one; on the corrupted file it restores every byte.",
            rich_help_panel=options.FAULTS,
            show_default=False,
        ),
        READS,
    ] = None


@dataclass(frozen=True)
class InjectOutput(Output):
    """What is written."""

    output: options.Output = None
    save_faults: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save the fault map, bound to input and output.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
        WRITES,
    ] = None
    force: options.Force = False


@grouped()
def inject(
    drawn: Drawn,
    at_risk: AtRisk,
    written: InjectOutput,
    model: options.Model,
    format: options.Format = "native",
) -> None:
    """Write a corrupted copy of a checkpoint.

    Example: faultcli inject model.safetensors --ber 1e-5 -o faulty.safetensors --save-faults faults.safetensors
    """
    from faultcli import injection as library
    from faultcli.checkpoint import Checkpoint
    from faultcli.errors import UsageError
    from faultcli.faults.maps import FaultMap

    checkpoint = Checkpoint.open(model)
    written_to = written.output or writes("--output", options.beside(checkpoint.path, "faulty"))
    if drawn.replay is not None:
        if (drawn.ber, drawn.fault, written.save_faults) != (None, None, None):
            raise UsageError(
                "--replay takes no --ber, --fault or --save-faults: the map says which bits flip", "leave them out"
            )
        faults = FaultMap.load(drawn.replay)
        passes = 2 if faults.before else 1  # with the checksum of what was written
        with byte_progress(written.quiet, "replaying", passes * checkpoint.nbytes) as advance:
            result = library.replay(checkpoint, faults, written_to, force=written.force, progress=advance)
    else:
        names = at_risk.names(checkpoint)
        law = drawn.law(quiet=written.quiet)
        passes = 2 if written.save_faults else 1
        with byte_progress(written.quiet, "injecting", passes * checkpoint.nbytes) as advance:
            result = library.inject(
                checkpoint,
                library.Draw(law, names, format, drawn.seed, drawn.trial),
                written_to,
                force=written.force,
                save_faults=written.save_faults,
                progress=advance,
            )
    faults = result.faults
    summary = {
        "schema": "faultcli.inject/1",
        "output": str(result.output),
        "fault": faults.fault,
        "format": faults.format,
        "bits": faults.bits,
        "flips": faults.flips,
        "values_changed": result.values_changed,
        "fault_map": str(written.save_faults) if written.save_faults else None,
        "replayed": str(drawn.replay) if drawn.replay else None,
        "seed": faults.seed,
        "trial": faults.trial,
    }
    write_json(summary, written.json)
    if written.json != "-":
        say(_sentence(result))
        if drawn.replay is None:
            text = f"seed {faults.seed}, trial {faults.trial}; the same seed gives the same faults everywhere"
            note(text, quiet=written.quiet)


def _sentence(result: object) -> str:
    from faultcli.injection import Injection

    assert isinstance(result, Injection)
    faults = result.faults
    if result.restored:
        back = f"{counted(faults.flips, 'stored bit')} flipped back"
        return f"{result.output}: {back}, every byte is restored (SHA-256 as before)"
    rate = f"{faults.flips / faults.bits:.3g}" if faults.bits else "0"
    return (
        f"{result.output}: {faults.flips:,} of {counted(faults.bits, 'stored bit')} flipped (rate {rate}, "
        f"{faults.fault} in {faults.format}), {counted(result.values_changed, 'value')} changed"
    )
