"""faultcli plan: the cheapest protection by tensor that meets a target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from faultcli.cli import options
from faultcli.cli.console import note, say, stdout, write_json
from faultcli.cli.exit_codes import DONE, GATE_FAILED, INCONCLUSIVE
from faultcli.cli.grouping import RARE, grouped
from faultcli.cli.places import WRITES
from faultcli.errors import UsageError

target = partial(options.option, "Target and choice")


@dataclass(frozen=True)
class Sought:
    """What is asked of the plan, and how it is looked for."""

    ber: Annotated[
        str | None, options.faults("P", "Bit-error rate, needed: a number, or a memory (`inspect --memories`).")
    ] = None
    min_accuracy: Annotated[float | None, target("A", "The plan is to hold an accuracy of A, a fraction.")] = None
    max_drop: Annotated[
        float | None,
        target(
            "D",
            "Or one at most D, a fraction, below that of the checkpoint as it is.",
            default="0.01 without the other",
        ),
    ] = None
    candidate: Annotated[
        list[str] | None,
        target(
            "CHAIN",
            "What a tensor may be protected by. Repeatable.",
            "--candidate",
            default="none, inplace=0.5 to 4, ldpc=0.5 to 2.5 (for hosts), secded=64, tmr=msb:4, tmr",
        ),
    ] = None
    trials: Annotated[int, target("N", "New fault maps that the plan is judged by.", default=True)] = 20
    choose_on: Annotated[int, target("N", "Choose on the first N inputs only.", default=True)] = 200
    choose_maps: Annotated[int, target("N", "Fault maps per plan that is looked at.", default=True), RARE] = 2
    seed: options.Seed = 0


@grouped
def plan(
    *,
    model: options.OptionalModel = None,
    asked: Sought,
    format: options.Format = "native",
    at_risk: options.AtRisk,
    workload: options.Answering,
    output: Annotated[
        Path | None, options.output("OUT.toml", "Where to write the plan for --protect.", "--output", "-o"), WRITES
    ] = None,
    shown: options.Overwriting,
) -> None:
    """Find the cheapest protection of every tensor that together hold an accuracy under a bit-error rate.

    Chosen by gradients and a few runs, judged on all inputs and new fault maps. Exit code 1: missed, 4: not decided.

    Example: faultcli plan --ber 1e-3 --format q2.5 -o plan.toml
    """
    import typer

    from faultcli.cli.session import note_original, note_what_runs, open_subject, set_threads
    from faultcli.files import atomic_output, check_output
    from faultcli.protect.chain import parse_chain
    from faultcli.report.planned import planned_document, planned_file, planned_lines, planned_tables
    from faultcli.where.goal import CANDIDATES, PlanGoal
    from faultcli.where.planning import find_plan

    quiet = shown.quiet
    if asked.ber is None:
        raise UsageError("a plan is for a bit-error rate, and none is named", "--ber 1e-3")
    if asked.min_accuracy is not None and asked.max_drop is not None:
        raise UsageError("--min-accuracy and --max-drop are two ways to say the same", "leave one out")
    if output is not None:
        if output.suffix != ".toml":
            raise UsageError(f"{output}: --protect takes plans whose names end in .toml", f"-o {output}.toml")
        check_output(output, force=shown.force)
    rate = options.explained_rate(asked.ber, quiet=quiet)
    set_threads(None, several=False)
    subject = open_subject(model, workload, at_risk)
    note_what_runs(subject, quiet=quiet)
    about = PlanGoal(
        format,
        rate.law,
        asked.min_accuracy,
        PlanGoal.max_drop if asked.max_drop is None else asked.max_drop,
        tuple(map(parse_chain, asked.candidate or CANDIDATES)),
        asked.seed,
        asked.choose_on,
        asked.choose_maps,
        asked.trials,
    )
    found = find_plan(subject, about, partial(note, quiet=quiet), partial(note_original, subject, quiet=quiet))
    if output is not None:
        with atomic_output(output, force=shown.force) as unfinished:
            unfinished.write_text(planned_file(found, subject.model), encoding="utf-8")
    write_json(planned_document(found, None if output is None else str(output)), shown.json)
    if shown.json != "-":
        for table in planned_tables(found):
            stdout().print(table)
        say(*planned_lines(found))
    if output is not None:
        note(f"take it: --protect {output}", quiet=quiet)
    code = {True: DONE, False: GATE_FAILED, None: INCONCLUSIVE}[found.rounds[-1].met]
    if code:
        raise typer.Exit(code)
