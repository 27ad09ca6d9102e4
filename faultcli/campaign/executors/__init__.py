"""Who runs the trials: this process, several of this machine, or a Ray cluster; the results are the same.

base       what an executor is, and the simplest one
pool       several workers: trials handed out and given back in order, lost ones again
processes  workers that are processes of this machine
actors     workers that are actors of a Ray cluster
parcel     a test bench on its way to a worker
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from faultcli.campaign.executors.base import Executor, Serial
from faultcli.errors import UsageError

_MOST_WORKERS = 4096


@contextmanager
def executor_of(workers: int = 1, ray: str | None = None, threads: int = 1) -> Iterator[Executor]:
    """Give what runs the trials; its processes end with the block.

    Args:
        workers: how many processes; of a Ray cluster, 1 means all of its CPUs.
        ray: the address of a Ray cluster, or `local`; None: no Ray.
        threads: of each process.

    Raises:
        UsageError: fewer than one worker.
    """
    from faultcli.campaign.executors.pool import Pool

    if not 1 <= workers <= _MOST_WORKERS:
        raise UsageError(
            f"--workers {workers}: a campaign has at least 1 worker, and at most {_MOST_WORKERS}", "--workers 2"
        )
    executor: Executor = Serial()
    if ray is not None:
        from faultcli.campaign.executors.actors import RayActors

        executor = Pool(RayActors(ray, workers if workers > 1 else None, threads))
    elif workers > 1:
        from faultcli.campaign.executors.processes import Processes

        executor = Pool(Processes(workers, threads))
    try:
        yield executor
    finally:
        executor.close()
