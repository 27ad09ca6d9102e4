"""Workers as processes of this machine. They share the bench through a file that each of them maps."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO, cast

from faultcli.campaign.bench import Bench, Trial
from faultcli.campaign.executors.parcel import load_mapped, pack
from faultcli.campaign.executors.pool import Answer, Crew
from faultcli.errors import UsageError
from faultcli.workload.process import prepare


class Processes(Crew):
    """Spawned processes, started when they are first needed. They end with this process, however it ends.

    Args:
        size: how many.
        threads: of each.

    Raises:
        UsageError: fewer than one.
    """

    def __init__(self, size: int, threads: int = 1) -> None:
        if size < 1:
            raise UsageError(f"--workers {size}: a campaign has at least 1 worker", "--workers 2")
        self.size = size
        self._threads = threads
        self._context = multiprocessing.get_context("spawn")
        self._shared: BinaryIO | None = None  # the file of the bench
        self._file = Path()  # how workers open it
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._benches = 0  # shared so far
        self._holds: dict[int, int] = {}  # which of them a worker was told to load

    def share(self, bench: Bench) -> None:
        if bench.workload.device.type != "cpu":
            raise UsageError(
                f"--workers: the model runs on {bench.workload.device}, which one process fills",
                "leave out --workers, or share the trials out with --shard I/N",
            )
        self._let_go()
        # Without a name where the system has such files: nobody has to clean up after a supervisor that is killed.
        self._shared = cast(BinaryIO, tempfile.TemporaryFile(prefix="faultcli-"))  # noqa: SIM115
        name = Path(f"/proc/{os.getpid()}/fd/{self._shared.fileno()}")
        if not name.exists():
            self._shared.close()
            self._shared = cast(BinaryIO, tempfile.NamedTemporaryFile(prefix="faultcli-"))  # noqa: SIM115
            name = Path(self._shared.name)
        self._file = name
        self._benches += 1
        pack(bench).save(self._shared)

    def _let_go(self) -> None:
        if self._shared is not None:
            self._shared.close()  # who has mapped it keeps it
            self._shared = None

    def send(self, worker: int, trial: Trial) -> None:
        if worker not in self._workers:
            self._start(worker)
        connection = self._workers[worker][1]
        with contextlib.suppress(OSError):  # a worker that is gone: `receive` says so
            if self._holds.get(worker) != self._benches:
                connection.send(self._file)
                self._holds[worker] = self._benches
            connection.send(trial)

    def receive(self, seconds: float) -> list[Answer]:
        where = {connection: worker for worker, (_, connection) in self._workers.items()}
        answers = []
        for ready in wait(list(where), timeout=seconds):
            connection = cast(Connection, ready)
            worker = where[connection]
            try:
                content = connection.recv()
            except (EOFError, OSError):
                answers.append(Answer(worker, None, self._why(worker)))
            else:
                answers.append(Answer(worker, content))
        return answers

    def _why(self, worker: int) -> str:
        process = self._workers[worker][0]
        process.join(timeout=5)
        code = process.exitcode
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with code {code}"

    def restart(self, worker: int) -> None:
        self._end(worker)

    def close(self) -> None:
        for worker in list(self._workers):
            self._end(worker)
        self._let_go()

    def _start(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._threads), daemon=True)
        process.start()
        theirs.close()
        self._workers[worker] = process, ours
        self._holds.pop(worker, None)

    def _end(self, worker: int) -> None:
        process, connection = self._workers.pop(worker)
        connection.close()
        process.kill()
        process.join()


def _work(connection: Connection, threads: int) -> None:
    """What a worker does until its connection is closed: load the bench it is sent, run the trials it is sent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of the terminal; the supervisor decides
    prepare(threads)
    bench: Bench | None = None
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):  # closed, or reset: the supervisor ended with an answer of ours unread
            return
        if isinstance(message, Path):
            bench = None  # frees the old one first
            bench = load_mapped(message) if message.exists() else None
            continue
        try:
            assert bench is not None, "the bench was taken away before it was loaded"
            answer: object = bench.run(message)
        except Exception as error:
            answer = error
        try:
            connection.send(answer)
        except OSError:
            return
