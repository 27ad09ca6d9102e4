"""faultcli worst: the few flips that hurt most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from faultcli.cli import options
from faultcli.cli.console import note, progress, say, stdout, write_json
from faultcli.cli.grouping import RARE, grouped
from faultcli.cli.places import READS, WRITES

search = partial(options.option, "Search")


@dataclass(frozen=True)
class Searched:
    """How flips are looked for."""

    flips: Annotated[int, search("K", "How many flips, at the most.", default=True)] = 10
    search_data: Annotated[
        str | None,
        search(
            "D",
            "Inputs that the search looks at, as --data; accuracy is of --data.",
            default="the training split of the data, else the data",
        ),
        READS,
    ] = None
    search_inputs: Annotated[int, search("N", "So many of them, drawn by --seed.", default=True)] = 128
    tries: Annotated[int, search("N", "Flips of every tensor that a step tries by a forward pass.", default=True)] = 8
    random_trials: Annotated[int, search("N", "Fault maps of as many random flips to compare with.", default=True)] = 20
    seed: options.Seed = 0
    threads: Annotated[int | None, search("N", "Threads that compute.", default="all cores"), RARE] = None


@dataclass(frozen=True)
class MapWritten(options.Overwriting):
    """What is printed, and the fault map."""

    output: Annotated[
        Path | None,
        options.output(
            "FILE", "Save the flips as a fault map, for `inject --replay` and --fault measured:FILE.", "--output", "-o"
        ),
        WRITES,
    ] = None


@grouped
def worst(
    *,
    model: options.OptionalModel = None,
    memory: options.OneMemory,
    at_risk: options.AtRisk,
    workload: options.Answering,
    asked: Searched,
    shown: MapWritten,
) -> None:
    """Find the K flips that hurt most, by gradients: a progressive bit search through format and protections.

    Step by step, flips are ranked by gradient × change of what is read, and the best of every tensor are tried.

    Example: faultcli worst --flips 3 --format int8-channel -o worst.map
    """
    from faultcli.cli.session import (
        memories_of,
        note_doubts,
        note_original,
        note_what_runs,
        open_subject,
        set_threads,
    )
    from faultcli.report.worst import worst_document, worst_lines, worst_tables
    from faultcli.where.worst import Search, WorstStep, find_worst

    how = Search(asked.flips, asked.search_inputs, asked.tries, asked.random_trials, asked.seed)
    formats, chains = memories_of(model, [memory.format], [memory.protect])
    set_threads(asked.threads, several=False)
    subject = open_subject(model, workload, at_risk)
    note_what_runs(subject, quiet=shown.quiet)
    note_doubts(subject, [(formats[0], chains[0])], quiet=shown.quiet)
    with progress(shown.quiet) as display:
        task = display.add_task("flips", total=how.flips, free=0)

        def look(step: WorstStep) -> None:
            display.update(task, completed=step.total)

        result = find_worst(subject, how, formats[0], chains[0], search_data=asked.search_data, on_step=look)
    note_original(subject, result.original, quiet=shown.quiet)
    if result.no_gradient:
        names = ", ".join(result.no_gradient)
        note(f"warning: nothing was looked for in {names}: no gradient goes there", quiet=shown.quiet)
    if shown.output is not None:
        result.faults.save(shown.output, force=shown.force)
    write_json(worst_document(result), shown.json)
    if shown.json != "-":
        for table in worst_tables(result):
            stdout().print(table)
        say(*worst_lines(result))
    if shown.output is not None:
        note(f"{shown.output}: the fault map; seed {how.seed}", quiet=shown.quiet)
