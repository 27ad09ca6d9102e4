"""How a campaign is run and watched: who runs the trials, what is shown meanwhile, what an interrupt leaves."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from faultcli.cli.console import note, progress
from faultcli.errors import UsageError
from faultcli.report.text import counted, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from faultcli.campaign.executors.base import Executor
    from faultcli.campaign.plan import Plan
    from faultcli.campaign.records import Failure, Record
    from faultcli.campaign.runner import Listener
    from faultcli.campaign.shard import Shard
    from faultcli.campaign.store import Store
    from faultcli.campaign.watch import Watch
    from faultcli.cli.campaign_options import Running

_REDRAW_SECONDS = 0.2
_MOST_THREADS = 1024


def set_threads(threads: int | None, *, several: bool) -> int:
    """Set how many threads compute, in this process and in each worker: what is asked for, else one where several
    processes share the machine, else all cores. Floating-point results depend on it, so it is part of the plan."""
    from faultcli.workload.process import prepare

    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"--threads {threads}: 1 to {_MOST_THREADS} threads compute", "--threads 1")
    return prepare(1 if threads is None and several else threads)


def in_seconds(budget: float | None) -> float | None:
    """Return --budget, which is in minutes, in seconds."""
    if budget is not None and not budget > 0:
        raise UsageError(f"--budget {budget:g}: minutes are more than 0", "--budget 10")
    return None if budget is None else 60 * budget


class Executing(TypedDict):
    """What trials are run with, as `run_campaign` and `run_curves` take it."""

    executor: Executor
    store: Store
    budget_seconds: float | None


@contextmanager
def conducting(running: Running, threads: int, seconds: float | None, *, quiet: bool) -> Iterator[Executing]:
    """Give what trials are run with, for the length of a `with` block; an interrupt says what is kept."""
    from faultcli.campaign.executors import executor_of
    from faultcli.campaign.store import Store

    with executor_of(running.workers, running.ray, threads) as executor, closing(Store.open(running.store)) as kept:
        try:
            yield {"executor": executor, "store": kept, "budget_seconds": seconds}
        except KeyboardInterrupt:
            note(where_trials_are(running.store, kept.trials), quiet=quiet)
            raise


@contextmanager
def watching(plan: Plan, shard: Shard, quiet: bool) -> Iterator[Listener]:
    """Give what is to be called with every trial. On a terminal it moves a bar with the accuracy so far; elsewhere it
    says a line for every arm that is done, if there are several."""
    with progress(quiet) as display:
        display_of = _Bar(display, plan, shard) if not display.disable else _Lines(plan, quiet)
        yield display_of.look
        display_of.end()


class Tally:
    """A bar over the trials of all arms. Those that a store had already, and those that an arm did not need, count as
    done and took no time."""

    def __init__(self, display: Progress, arms: int, per_arm: int) -> None:
        self._display, self._per_arm = display, per_arm
        self._task = display.add_task("trials", total=arms * per_arm)
        self._arms: list[int] = []
        self._done = self._free = 0

    def count(self, arm: int, *, kept: bool) -> None:
        """Count a trial of an arm; all of an arm come before those of the next."""
        if arm not in self._arms:  # the one before may have stopped early
            skipped = len(self._arms) * self._per_arm - self._done
            self._done += skipped
            self._free += skipped
            self._arms.append(arm)
        self._done += 1
        self._free += kept
        self._display.update(self._task, completed=self._done, free=self._free)

    def say(self, text: str) -> None:
        """Say what is running."""
        self._display.update(self._task, description=printable(text))


class _Bar:
    def __init__(self, display: Progress, plan: Plan, shard: Shard) -> None:
        self._plan = plan
        self._tally = Tally(display, len(plan.arms), len(shard.trials(plan.trials)))
        self._watch: Watch | None = None
        self._kept = 0
        self._shown = 0.0

    def look(self, found: Record | Failure, watch: Watch) -> None:
        kept = watch.kept > (self._kept if watch is self._watch else 0)
        self._watch, self._kept = watch, watch.kept
        self._tally.count(found.arm, kept=kept)
        now = time.monotonic()
        # The last one that was kept is always said: the next may take long.
        if now - self._shown > _REDRAW_SECONDS or (kept and watch.kept == watch.known):
            self._shown = now
            self._tally.say(_said(self._plan, found.arm, watch))

    def end(self) -> None:
        pass


class _Lines:
    def __init__(self, plan: Plan, quiet: bool) -> None:
        self._plan, self._quiet = plan, quiet or len(plan.arms) == 1
        self._latest: tuple[int, Watch] | None = None

    def look(self, found: Record | Failure, watch: Watch) -> None:
        if self._latest is not None and self._latest[0] != found.arm:
            self.end()
        self._latest = found.arm, watch

    def end(self) -> None:
        if self._latest is not None:
            note(_said(self._plan, *self._latest), quiet=self._quiet)


def _said(plan: Plan, arm: int, watch: Watch) -> str:
    from faultcli.report.numbers import mean_text, unit

    what = watch.measure.score or "accuracy"
    mean = mean_text(watch.mean(), watch.measure) + unit(watch.measure)
    return f"{plan.arms[arm].label}: {counted(watch.trials, 'trial')}, {what} {mean}"


def where_trials_are(store: Path | None, kept: int) -> str:
    """What to tell somebody who interrupted a campaign."""
    if store is None:
        return "nothing is kept: with --store FILE a campaign continues where it was interrupted"
    verb = "is" if kept == 1 else "are"
    return f"{counted(kept, 'trial')} {verb} kept in {store}; the same command continues from there"


def command_line() -> str:
    """The command as a shell takes it."""
    import shlex

    return shlex.join(["faultcli", *sys.argv[1:]])
