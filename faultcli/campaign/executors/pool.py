"""Trials on several workers: handed out in order, given back in order; lost and hanging ones are tried again.

What a worker is (a process, an actor of a cluster) is the crew's business.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from faultcli.campaign.bench import Bench, Trial
from faultcli.campaign.records import Failure, Record
from faultcli.errors import WorkloadError

ATTEMPTS = 3  # a trial that takes its worker with it as often is recorded as failed
PATIENCE = 60.0, 30.0  # a trial may take so many seconds, plus so many times the fault-free run
START_SECONDS = 600.0  # more for the first answer of a worker, which has to start and to load the bench
AHEAD = 4  # trials per worker that may be finished before the oldest one is
_LOSSES = 10  # workers lost in a row, with no answer in between, that end the campaign


@dataclass(frozen=True)
class Answer:
    """What came back from a worker: a record, or an error that this process would have seen, too; None: it is lost."""

    worker: int
    content: Record | BaseException | None
    cause: str = ""  # of the loss


class Crew(ABC):
    """Workers, numbered from 0. Each holds one bench and runs one trial at a time."""

    size: int

    @abstractmethod
    def share(self, bench: Bench) -> None:
        """Make this bench the one that trials sent from now on run on."""

    @abstractmethod
    def send(self, worker: int, trial: Trial) -> None:
        """Give a worker that is idle its next trial."""

    @abstractmethod
    def receive(self, seconds: float) -> list[Answer]:
        """Wait up to so many seconds for answers of busy workers and losses of any; return those there are."""

    @abstractmethod
    def restart(self, worker: int) -> None:
        """End a worker, if it still lives, and put a new one in its place."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""


@dataclass
class _Job:
    order: int
    trial: Trial
    attempts: int = 0
    deadline: float = 0.0


class _Queue:
    """The trials of one call of `run`: given out in order, at most so many ahead of the oldest that is not finished."""

    def __init__(self, trials: Iterable[Trial], ahead: int) -> None:
        self._source = enumerate(trials)
        self._ahead = ahead
        self._again: deque[_Job] = deque()
        self._done: dict[int, Record | Failure] = {}
        self._given = self._out = 0
        self._exhausted = False

    def next(self) -> _Job | None:
        """Return the next trial to run; None if there is none just now."""
        if self._again:
            return self._again.popleft()
        if self._exhausted or self._given - self._out >= self._ahead:
            return None
        following = next(self._source, None)
        self._exhausted = following is None
        if following is None:
            return None
        self._given += 1
        return _Job(*following)

    def take(self, job: _Job, answer: Answer) -> None:
        """Take what became of a trial; one whose worker was lost is tried again, but not for ever."""
        if isinstance(answer.content, BaseException):
            raise answer.content
        if answer.content is not None:
            self._done[job.order] = answer.content
        elif job.attempts < ATTEMPTS:
            self._again.append(job)
        else:
            self._done[job.order] = Failure(job.trial.arm, job.trial.number, answer.cause)

    def finished(self) -> Iterator[Record | Failure]:
        """Yield what is finished and in turn."""
        while self._out in self._done:
            yield self._done.pop(self._out)
            self._out += 1

    @property
    def empty(self) -> bool:
        """Whether everything was given back."""
        return self._exhausted and self._out == self._given


class Pool:
    """An executor on a crew.

    Args:
        crew: the workers; closed with the pool.
        patience: seconds that a trial may take before its worker is taken to hang; None: by the fault-free run.
    """

    def __init__(self, crew: Crew, patience: float | None = None) -> None:
        self._crew = crew
        self._patience = patience
        self._bench: Bench | None = None
        self._seconds = 0.0  # that a trial may take
        self._ready: set[int] = set()  # workers that have answered on this bench
        self._busy: dict[int, tuple[_Queue, _Job]] = {}  # by worker; also for a call of `run` that was cut short
        self._losses = 0

    def run(self, bench: Bench, trials: Iterable[Trial]) -> Iterator[Record | Failure]:
        if bench is not self._bench:
            fixed, factor = PATIENCE
            self._seconds = self._patience or fixed + factor * bench.stored.seconds
            self._crew.share(bench)
            self._bench = bench
            self._ready.clear()
        queue = _Queue(trials, AHEAD * self._crew.size)
        while True:
            for worker in range(self._crew.size):
                job = queue.next() if worker not in self._busy else None
                if job is not None:
                    job.attempts += 1
                    job.deadline = time.monotonic() + self._seconds + self._start_seconds(worker)
                    self._busy[worker] = queue, job
                    self._crew.send(worker, job.trial)
            yield from queue.finished()
            if queue.empty:
                return
            for answer in self._answers():
                whose, job = self._busy.pop(answer.worker, (None, None))  # one that was idle may be lost, too
                if answer.content is None:
                    self._ready.discard(answer.worker)
                    self._crew.restart(answer.worker)
                    self._count_loss(answer.cause)
                else:
                    self._ready.add(answer.worker)
                    self._losses = 0
                if whose is queue and job is not None:
                    queue.take(job, answer)

    def close(self) -> None:
        self._crew.close()

    def _start_seconds(self, worker: int) -> float:
        return 0.0 if worker in self._ready or self._patience is not None else START_SECONDS

    def _answers(self) -> list[Answer]:
        """Wait for the next answers of busy workers; one that is past its deadline counts as lost."""
        first = min((job.deadline for _, job in self._busy.values()), default=0.0)
        answers = self._crew.receive(max(0.0, first - time.monotonic()))
        heard = {answer.worker for answer in answers}
        now = time.monotonic()
        late = (w for w, (_, job) in self._busy.items() if job.deadline <= now and w not in heard)
        cause = f"no answer within {self._seconds:.0f} s"
        return [*answers, *[Answer(worker, None, cause) for worker in late]]

    def _count_loss(self, cause: str) -> None:
        self._losses += 1
        if self._losses >= max(_LOSSES, 2 * self._crew.size):
            raise WorkloadError(
                f"{self._losses} workers in a row were lost before they answered: {cause}",
                "run without --workers or --ray to see what happens, or give every worker more memory",
            )
