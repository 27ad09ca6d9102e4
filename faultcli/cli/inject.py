"""faultcli inject: write a corrupted checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.places import READS, WRITES, beside, writes
from faultcli.report.text import counted


@dataclass(frozen=True)
class Drawn(options.OneFault):
    """Which faults: drawn, or saved ones."""

    seed: options.Seed = 0
    trial: Annotated[int, options.faults("N", "Take the faults of this trial of a campaign.", default=True)] = 0
    replay: Annotated[
        Path | None,
        options.faults(
            "FILE", "Apply a saved fault map instead of drawing one; on the corrupted file it restores every byte."
        ),
        READS,
    ] = None


@grouped
def inject(
    *,
    model: options.Model,
    asked: Drawn,
    format: options.Format = "native",
    at_risk: options.InFile,
    output: Annotated[Path | None, options.written_to("MODEL.faulty.safetensors beside MODEL"), WRITES] = None,
    save_faults: Annotated[
        Path | None, options.output("FILE", "Save the fault map, bound to input and output."), WRITES
    ] = None,
    shown: options.Overwriting,
) -> None:
    """Write a corrupted copy of a checkpoint.

    Example: faultcli inject model.safetensors --ber 1e-5 -o faulty.safetensors --save-faults faults.safetensors
    """
    from faultcli import injection as library
    from faultcli.checkpoint import Checkpoint
    from faultcli.cli.session import note_left_out, note_not_at_risk, note_what_was_found, with_channels
    from faultcli.errors import UsageError
    from faultcli.faults.maps import FaultMap
    from faultcli.faults.selection import Selection
    from faultcli.hardened.damage import HardenedMemory
    from faultcli.protect.chain import by_row
    from faultcli.quantised import FileAtRisk, QuantisedMemory, memory_of

    checkpoint = Checkpoint.open(model)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    written_to = output or writes("--output", beside(checkpoint.path, "faulty"))
    if asked.replay is not None:
        if asked.given or save_faults is not None:
            raise UsageError(
                "--replay takes no --ber, --fault or --save-faults: the map says which bits flip", "leave them out"
            )
        faults = FaultMap.load(asked.replay)
        memory, names = memory_of(checkpoint, faults), [name for name in faults.layout if name in checkpoint.tensors]
        counts = memory is None and by_row(faults.format)
        checkpoint = with_channels(checkpoint, names, at_risk.arch, counts=counts, quiet=shown.quiet)
        passes = 2 if faults.before else 1  # with the checksum of what was written
        with byte_progress(shown.quiet, "replaying", passes * checkpoint.nbytes) as advance:
            result = library.replay(checkpoint, faults, written_to, memory=memory, force=shown.force, progress=advance)
    else:
        file = FileAtRisk.of(checkpoint, Selection(*at_risk.selection), format)
        memory, law = file.memory, asked.law(quiet=shown.quiet)
        note_not_at_risk(checkpoint, at_risk, quiet=shown.quiet)
        counts = memory is None and by_row(format)
        checkpoint = with_channels(checkpoint, file.names, at_risk.arch, counts=counts, quiet=shown.quiet)
        passes = 2 if save_faults else 1
        with byte_progress(shown.quiet, "injecting", passes * checkpoint.nbytes) as advance:
            result = library.inject(
                checkpoint,
                library.Draw(law, file.names, file.format, asked.seed, asked.trial),
                written_to,
                memory=memory,
                force=shown.force,
                save_faults=save_faults,
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
        "fault_map": str(save_faults) if save_faults else None,
        "replayed": str(asked.replay) if asked.replay else None,
        "seed": faults.seed,
        "trial": faults.trial,
    }
    write_json(summary, shown.json)
    note_left_out(checkpoint, written_to, quiet=shown.quiet)
    if shown.json != "-":
        say(_sentence(result))
        if isinstance(memory, QuantisedMemory) and not result.restored:
            note(f"values are the weights that the words stand for, in {memory.layout}", quiet=shown.quiet)
        if isinstance(memory, HardenedMemory) and not result.restored:
            read = counted(result.values_changed, "value")
            note(f"behind its protections, {read} read differently; `repair` says what is lost", quiet=shown.quiet)
        if asked.replay is None:
            text = f"seed {faults.seed}, trial {faults.trial}; the same seed gives the same faults everywhere"
            note(text, quiet=shown.quiet)


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
