"""What is shown while trials run: a bar with the count and what came out so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from faultcli.cli.console import note, progress
from faultcli.report.text import counted, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from faultcli.campaign.curves import Look
    from faultcli.campaign.flip_curve import FlipCurve
    from faultcli.campaign.plan import Plan
    from faultcli.campaign.records import Failure, Record
    from faultcli.campaign.runner import Listener
    from faultcli.campaign.shard import Shard
    from faultcli.campaign.watch import Watch

_REDRAW_SECONDS = 0.2


@contextmanager
def watching(plan: Plan, shard: Shard, quiet: bool) -> Iterator[Listener]:
    """Give what is to be called with every trial. On a terminal it moves a bar with the accuracy so far; elsewhere it
    says a line for every arm that is done, if there are several."""
    with progress(quiet) as display:
        display_of = _Bar(display, plan, shard) if not display.disable else _Lines(plan, quiet)
        yield display_of.look
        display_of.end()


@contextmanager
def watching_curves(plan: Plan, quiet: bool) -> Iterator[Look]:
    """Give what is to be called with every trial: it moves a bar on a terminal."""
    with progress(quiet) as display:
        tally = _Tally(display, len(plan.arms), plan.trials)
        said: tuple[int, int] | None = None

        def look(found: Record | Failure, curve: FlipCurve, kept: bool) -> None:
            nonlocal said
            tally.count(found.arm, kept=kept)
            if said != (found.arm, curve.trials) and not display.disable:
                said = found.arm, curve.trials
                width = f" ± {100 * curve.half_width():.1f}" if curve.trials else ""
                tally.say(f"{plan.arms[found.arm].label}{width}")

        yield look


class _Tally:
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
        self._tally = _Tally(display, len(plan.arms), len(shard.trials(plan.trials)))
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
