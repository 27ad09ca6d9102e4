"""faultcli inspect: what a checkpoint holds, and the tables of what is built in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from faultcli.checkpoint import TensorInfo
    from faultcli.faults.law import FaultLaw

BUILT_IN = "Tables of what is built in"


def inspect(
    model: options.OptionalModel = None,
    formats: Annotated[
        bool,
        typer.Option("--formats", metavar="", help="Number formats.", rich_help_panel=BUILT_IN, show_default=False),
    ] = False,
    faults: Annotated[
        bool, typer.Option("--faults", metavar="", help="Fault laws.", rich_help_panel=BUILT_IN, show_default=False)
    ] = False,
    memories: Annotated[
        bool,
        typer.Option(
            "--memories",
            metavar="",
            help="Memories that --ber knows, and the sources of their rates.",
            rich_help_panel=BUILT_IN,
            show_default=False,
        ),
    ] = False,
    protections: Annotated[
        bool,
        typer.Option("--protections", metavar="", help="Protections.", rich_help_panel=BUILT_IN, show_default=False),
    ] = False,
    archs: Annotated[
        bool, typer.Option("--archs", metavar="", help="Architectures.", rich_help_panel=BUILT_IN, show_default=False)
    ] = False,
    ber: options.Ber = None,
    fault: options.Fault = None,
    format: options.Format = "native",
    target: options.Target = "weights",
    include: options.Include = None,
    exclude: options.Exclude = None,
    json: options.Json = None,
    quiet: options.Quiet = False,
) -> None:
    """List a checkpoint's tensors, their ranges and the bits that would be at risk; or a table of what is built in.

    Example: faultcli inspect model.safetensors --ber 1e-5
    """
    from faultcli.report import builtin

    tables = {"formats": formats, "faults": faults, "memories": memories, "protections": protections, "archs": archs}
    asked = [name for name, flag in tables.items() if flag]
    for name in asked:
        rows = builtin.TABLES[name]()
        write_json({"schema": f"faultcli.{name}/1", name: rows}, json)
        if json != "-":
            stdout().print(builtin.render(name, rows))
    if not asked:
        _inspect_checkpoint(
            model,
            fault=fault,
            law=options.single_fault(ber, fault, quiet=quiet) if ber is not None or fault is not None else None,
            format=format,
            target=target,
            include=include or [],
            exclude=exclude or [],
            json=json,
            quiet=quiet,
        )


def _inspect_checkpoint(
    model: str | None,
    *,
    fault: str | None,
    law: FaultLaw | None,
    format: str,
    target: str,
    include: list[str],
    exclude: list[str],
    json: str | None,
    quiet: bool,
) -> None:
    from faultcli.campaign.subject import open_checkpoint
    from faultcli.cli.session import naming
    from faultcli.errors import UsageError
    from faultcli.faults.selection import TARGETS, select
    from faultcli.injection import slots
    from faultcli.prediction import Prediction, Predictor
    from faultcli.report.inspection import inspection_document, inspection_summary, inspection_table, prediction_table
    from faultcli.survey import survey

    checkpoint = open_checkpoint(model)
    try:
        names = select(checkpoint.tensors.values(), target=target, include=include, exclude=exclude)
    except UsageError:
        if include or exclude or law is not None or target not in TARGETS:
            raise
        names = []  # a checkpoint without weights can still be looked at
    expected = None
    if law is not None:
        fault = fault or law.spec
        sites = [site for slot in slots(checkpoint, names, format) for site in slot.places]
        expected = law.expected_flips([site for site in sites if law.covers(site)])
    predictor = Predictor(checkpoint, format, law.ber) if law is not None and law.ber is not None else None
    predictions: list[Prediction] = []

    def look(info: TensorInfo, words: Tensor) -> None:
        if predictor is not None:
            predictions.append(predictor.predict(info, words))

    with byte_progress(quiet, "reading", checkpoint.nbytes) as advance, naming(checkpoint):
        tensors = list(survey(checkpoint, set(names), format, advance, look))
    write_json(inspection_document(str(checkpoint.path), format, tensors, fault, expected, predictions), json)
    if json != "-":
        stdout().print(inspection_table(str(checkpoint.path), tensors))
        say(inspection_summary(tensors, format, fault, expected))
        if predictions:
            stdout().print(prediction_table(format, predictions))
        if checkpoint.metadata:
            entries = (f"{key}={value:.80}" for key, value in sorted(checkpoint.metadata.items()))
            note("metadata: " + ", ".join(entries), quiet=quiet)
