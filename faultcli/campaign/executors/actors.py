"""Workers as actors of a Ray cluster. Arrays go into its object store once; what trials write to is copied."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from faultcli.campaign.bench import Bench, Trial
from faultcli.campaign.executors.parcel import pack, unpack
from faultcli.campaign.executors.pool import Answer, Crew
from faultcli.errors import UsageError, WorkloadError, install
from faultcli.live import views
from faultcli.workload.process import prepare

LOCAL = "local"
_LOOPBACK = {"127.0.0.1", "::1"}


class RayActors(Crew):
    """One actor per CPU of the cluster, or as many as asked for.

    Args:
        address: of a cluster (`host:port`, `ray://host:port`, `auto`), or `local` to start one here, which nobody can
            reach from another machine.
        size: how many actors; None: one per CPU.
        threads: of each.

    Raises:
        UsageError: Ray is not installed.
        WorkloadError: there is no cluster at this address, or this Ray cannot be kept to the loopback address.
    """

    def __init__(self, address: str = LOCAL, size: int | None = None, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError("--ray: Ray is not installed", install("ray")) from None
        self._ray: Any = ray
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address, size)
        self.size = size or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._actor = self._ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        self._threads = threads
        self._head: Any = None
        self._buffers: list[Any] = []
        self._private: frozenset[int] = frozenset()
        self._benches = 0
        self._actors: dict[int, Any] = {}
        self._holds: dict[int, int] = {}
        self._pending: dict[Any, int] = {}  # future to worker

    def _connect(self, address: str, size: int | None) -> None:
        own = address == LOCAL
        if own:  # by default Ray's workers give way to everything else on the machine
            os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            with ExitStack() as around:
                around.enter_context(_signals_kept())
                if own:
                    around.enter_context(_loopback_only())
                self._ray.init(
                    address=LOCAL if own else address,
                    num_cpus=size if own else None,
                    include_dashboard=False if own else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WorkloadError(
                f"--ray {address}: {reason}", "start a cluster with `ray start --head`, or --ray local"
            ) from error
        if own and self._ray.util.get_node_ip_address() not in _LOOPBACK:
            self._ray.shutdown()
            raise WorkloadError(
                f"--ray local: Ray {self._ray.__version__} listens on all interfaces", "use --workers N instead"
            )

    def share(self, bench: Bench) -> None:
        if bench.workload.device.type != "cpu":
            raise UsageError("--ray: the actors run on CPUs", "pass --device cpu")
        parcel = pack(bench)
        self._head = self._ray.put(parcel.head)
        self._buffers = [self._ray.put(buffer) for buffer in parcel.buffers]
        written = (view for live in bench.workload.parameters.values() for view in views(live))
        self._private = parcel.places(written)
        self._benches += 1

    def send(self, worker: int, trial: Trial) -> None:
        if worker not in self._actors:
            self._actors[worker] = self._actor.remote(self._threads)
            self._holds.pop(worker, None)
        actor = self._actors[worker]
        if self._holds.get(worker) != self._benches:
            actor.load.remote(self._private, self._head, *self._buffers)
            self._holds[worker] = self._benches
        self._pending[actor.run.remote(trial)] = worker

    def receive(self, seconds: float) -> list[Answer]:
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        answers = []
        for future in ready:
            worker = self._pending.pop(future)
            try:
                answers.append(Answer(worker, self._ray.get(future)))
            except self._ray.exceptions.RayActorError as error:
                answers.append(Answer(worker, None, str(error).splitlines()[0]))
            except self._ray.exceptions.RayTaskError as error:
                answers.append(Answer(worker, error.cause if isinstance(error.cause, Exception) else error))
        return answers

    def restart(self, worker: int) -> None:
        actor = self._actors.pop(worker, None)
        self._pending = {future: other for future, other in self._pending.items() if other != worker}
        if actor is not None:
            self._ray.kill(actor)

    def close(self) -> None:
        for worker in list(self._actors):
            self.restart(worker)
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a cluster that is started in the block listen on this machine's loopback address only.

    Its servers run what they are sent, without a password, and listen on all interfaces unless the address of the node
    is the loopback one. Ray replaces that by a public one wherever it is asked for, except where it takes clusters to
    be impossible, as on a Mac.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give SIGTERM back to who had it: Ray takes it over, in Python to end with code 15, in C++ to abort with a trace
    of its own stack, and either leaves no time to say what is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray leaves it alone there, too
        return
    before, asked_to_end = signal.getsignal(signal.SIGTERM), False
    try:
        yield
    except SystemExit:  # Ray's handler, while it was in place
        asked_to_end = True
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked_to_end:
            signal.raise_signal(signal.SIGTERM)


class _Actor:
    """Holds a bench and runs its trials."""

    def __init__(self, threads: int) -> None:
        prepare(threads)
        self._bench: Bench | None = None

    def load(self, private: frozenset[int], head: bytes, *buffers: Any) -> None:
        """Set the bench up on arrays of the object store, which are read-only, and on copies of the `private` ones."""
        self._bench = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            own = (np.array(b) if place in private else b for place, b in enumerate(buffers))
            self._bench = unpack(head, own)

    def run(self, trial: Trial) -> Any:
        """Run one trial."""
        assert self._bench is not None
        return self._bench.run(trial)
