"""`where --worst K`: the few flips that hurt most."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from faultcli.cli import options
from faultcli.cli.console import note, progress, say, stdout, write_json
from faultcli.cli.grouping import RARE
from faultcli.cli.places import READS, WRITES
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.where.worst import WorstStep

search = partial(options.option, "Worst flips")


@dataclass(frozen=True)
class Worst:
    """How the flips that hurt most are looked for."""

    worst: Annotated[
        int | None,
        search("K", "Find the K flips that hurt most instead."),
    ] = None
    search_data: Annotated[
        str | None,
        search(
            "D",
            "Inputs to search on, as --data, which accuracy is of.",
            default="its training split, or what --limit leaves",
        ),
        READS,
    ] = None
    search_inputs: Annotated[int, search("N", "So many of them, drawn by --seed.", default=True), RARE] = 128
    tries: Annotated[int, search("N", "Flips that are tried for every one that is taken.", default=True), RARE] = 32
    random_maps: Annotated[
        int, search("N", "Fault maps of as many random flips to compare with.", default=True), RARE
    ] = 20
    save_faults: Annotated[
        Path | None,
        search("FILE", "Save the flips for `inject --replay` and --fault measured:FILE."),
        WRITES,
    ] = None
    force: Annotated[bool, search("", "Replace a map that exists.", "--force"), RARE] = False


def check_alone(asked: Worst, *others: Any, kept: frozenset[str] = frozenset({"seed", "threads"})) -> None:
    """Refuse options of the worst flips without them, and those of samples (groups of options) with them.

    Raises:
        UsageError: names the option.
    """
    if asked.worst is None:
        if given := _given(asked, frozenset({"force"})):
            raise UsageError(f"{given}: is of the flips that hurt most", "say how many: --worst 10; or leave it out")
        return
    for group in others:
        if given := _given(group, kept):
            problem = f"{given}: is of samples, and --worst {asked.worst} takes none"
            raise UsageError(problem, "leave one of the two out")


def _given(group: Any, kept: frozenset[str] = frozenset()) -> str | None:
    """Return an option of a group that is not as it is when nobody says anything."""
    names = (one.name for one in fields(group) if one.name not in kept and getattr(group, one.name) != one.default)
    return next((f"--{name.replace('_', '-')}" for name in names), None)


def find(
    model: str | None,
    memory: options.OneMemory,
    at_risk: options.AtRisk,
    workload: options.Answering,
    asked: Worst,
    seed: int,
    threads: int | None,
    shown: options.Configured,
) -> None:
    """Find the flips that hurt most, and print what they do."""
    from faultcli.cli.session import memories_of, note_doubts, note_original, note_what_runs, open_subject, set_threads
    from faultcli.report.worst import worst_document, worst_lines, worst_tables
    from faultcli.where.worst import Search, find_worst

    assert asked.worst is not None
    how = Search(asked.worst, asked.search_inputs, asked.tries, asked.random_maps, seed)
    formats, chains = memories_of(model, [memory.format], [memory.protect])
    set_threads(threads, several=False)
    subject = open_subject(model, workload, at_risk)
    note_what_runs(subject, quiet=shown.quiet)
    note_doubts(subject, [(formats[0], chains[0])], quiet=shown.quiet)
    with progress(shown.quiet) as display:
        task = display.add_task("worst flips", total=how.flips, free=0)

        def look(step: WorstStep) -> None:
            display.update(task, completed=step.total)

        result = find_worst(subject, how, formats[0], chains[0], search_data=asked.search_data, on_step=look)
    note_original(subject, result.original, quiet=shown.quiet)
    if result.no_gradient:
        names = ", ".join(result.no_gradient)
        note(f"warning: nothing was looked for in {names}: no gradient goes there", quiet=shown.quiet)
    if asked.save_faults is not None:
        result.faults.save(asked.save_faults, force=asked.force)
    write_json(worst_document(result), shown.json)
    if shown.json != "-":
        for table in worst_tables(result):
            stdout().print(table)
        say(*worst_lines(result))
    if asked.save_faults is not None:
        note(f"{asked.save_faults}: the fault map; seed {how.seed}", quiet=shown.quiet)
