"""What an executor is, and the simplest one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from faultcli.campaign.bench import Bench, Trial
from faultcli.campaign.records import Failure, Record


class Executor(Protocol):
    """Runs trials."""

    def run(self, bench: Bench, trials: Iterable[Trial]) -> Iterator[Record | Failure]:
        """Yield what every trial gave, in the order of `trials`, which is consumed a little ahead.

        Trials that are on their way when the iterator is closed are dropped.
        """

    def close(self) -> None:
        """Let go of processes and files. May be called twice."""


class Serial:
    """One trial after the other, in this process."""

    def run(self, bench: Bench, trials: Iterable[Trial]) -> Iterator[Record | Failure]:
        for trial in trials:
            yield bench.run(trial)

    def close(self) -> None:
        pass
