"""faultcli inspect: what a checkpoint holds, and the tables of what is built in."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.groups import AtRisk, OneFault, Output

if TYPE_CHECKING:
    from torch import Tensor

    from faultcli.checkpoint import TensorInfo

BUILT_IN = "Tables of what is built in"  # a field of `BuiltIn` is one


@dataclass(frozen=True)
class BuiltIn:
    """Tables of what is built in."""

    formats: Annotated[
        bool,
        typer.Option("--formats", metavar="", help="Number formats.", rich_help_panel=BUILT_IN, show_default=False),
    ] = False
    faults: Annotated[
        bool, typer.Option("--faults", metavar="", help="Fault laws.", rich_help_panel=BUILT_IN, show_default=False)
    ] = False
    memories: Annotated[
        bool,
        typer.Option(
            "--memories",
            metavar="",
            help="Memories that --ber knows, and the sources of their rates.",
            rich_help_panel=BUILT_IN,
            show_default=False,
        ),
    ] = False
    protections: Annotated[
        bool,
        typer.Option("--protections", metavar="", help="Protections.", rich_help_panel=BUILT_IN, show_default=False),
    ] = False
    archs: Annotated[
        bool, typer.Option("--archs", metavar="", help="Architectures.", rich_help_panel=BUILT_IN, show_default=False)
    ] = False


@grouped()
def inspect(
    built_in: BuiltIn,
    faults: OneFault,
    at_risk: AtRisk,
    output: Output,
    model: options.OptionalModel = None,
    format: options.Format = "native",
) -> None:
    """List a checkpoint's tensors, their ranges and the bits that would be at risk; or a table of what is built in.

    Example: faultcli inspect model.safetensors --ber 1e-5
    """
    from faultcli.report import builtin

    asked = [table.name for table in fields(built_in) if getattr(built_in, table.name)]
    for name in asked:
        rows = builtin.TABLES[name]()
        write_json({"schema": f"faultcli.{name}/1", name: rows}, output.json)
        if output.json != "-":
            stdout().print(builtin.render(name, rows))
    if not asked:
        _inspect_checkpoint(model, faults, format, at_risk, output)


def _inspect_checkpoint(model: str | None, faults: OneFault, format: str, at_risk: AtRisk, output: Output) -> None:
    from faultcli.campaign.subject import open_checkpoint
    from faultcli.cli.session import naming
    from faultcli.errors import UsageError
    from faultcli.faults.selection import TARGETS
    from faultcli.injection import slots
    from faultcli.prediction import Prediction, Predictor
    from faultcli.report.inspection import inspection_document, inspection_summary, inspection_table, prediction_table
    from faultcli.survey import survey

    law = None if faults == OneFault() else faults.law(quiet=output.quiet)
    checkpoint = open_checkpoint(model)
    try:
        names = at_risk.names(checkpoint)
    except UsageError:
        if at_risk.include or at_risk.exclude or law is not None or at_risk.target not in TARGETS:
            raise
        names = []  # a checkpoint without weights can still be looked at
    fault, expected = faults.fault, None
    if law is not None:
        fault = fault or law.spec
        sites = [site for slot in slots(checkpoint, names, format) for site in slot.places]
        expected = law.expected_flips([site for site in sites if law.covers(site)])
    predictor = Predictor(checkpoint, format, law.ber) if law is not None and law.ber is not None else None
    predictions: list[Prediction] = []

    def look(info: TensorInfo, words: Tensor) -> None:
        if predictor is not None:
            predictions.append(predictor.predict(info, words))

    with byte_progress(output.quiet, "reading", checkpoint.nbytes) as advance, naming(checkpoint):
        tensors = list(survey(checkpoint, set(names), format, advance, look))
    write_json(inspection_document(str(checkpoint.path), format, tensors, fault, expected, predictions), output.json)
    if output.json != "-":
        stdout().print(inspection_table(str(checkpoint.path), tensors))
        say(inspection_summary(tensors, format, fault, expected))
        if predictions:
            stdout().print(prediction_table(format, predictions))
        if checkpoint.metadata:
            entries = (f"{key}={value:.80}" for key, value in sorted(checkpoint.metadata.items()))
            note("metadata: " + ", ".join(entries), quiet=output.quiet)
