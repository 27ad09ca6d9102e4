"""How much memory values of the run without faults may take, where nobody says."""

from __future__ import annotations

import os
from pathlib import Path

import torch

MOST_BYTES = 2 << 30
_PART = 4  # of free memory, one byte in so many
_UNKNOWN = 1 << 30  # taken to be free where the system does not say
_GROUP = Path("/sys/fs/cgroup")


def bytes_for(device: torch.device) -> int:
    """Return how many bytes this process may keep on a device: a quarter of what is free, at most 2 GiB.

    Of the memory beside a CPU, a process has the part that its threads are of the cores, as workers run side by side.
    """
    if device.type == "cuda":
        return min(MOST_BYTES, torch.cuda.mem_get_info(device)[0] // _PART)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    part = min(1.0, torch.get_num_threads() / cores)
    return min(MOST_BYTES, int(part * _free_bytes() / _PART))


def _free_bytes() -> int:
    """Return the memory that is free on this machine, and within the limit of its container."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:
        limit, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        found += [max(0, int(limit) - int(used))] if limit != "max" else []
    except OSError:
        pass
    return min(found, default=_UNKNOWN)
