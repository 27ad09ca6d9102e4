"""How a process computes that runs one model over and over: with so many threads, and memory that it keeps."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
_KEEP = 1 << 30  # bytes; larger blocks still go back to the system at once


def prepare(threads: int | None = None) -> int:
    """Make this process one that runs a model over and over: the command line, a worker and an actor all start here.

    Args:
        threads: that compute; None: as many as torch has by itself.

    Returns:
        How many threads compute.
    """
    import torch

    keep_freed_memory()
    torch.set_num_threads(torch.get_num_threads() if threads is None else threads)
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Keep blocks up to 1 GiB in this process once they are freed; elsewhere than under glibc, do nothing.

    By default glibc gives the activations of every layer back to the system and asks for them anew: page faults that
    took a quarter of the time of a ResNet-20 trial when this was measured. It is for processes that run one model over
    and over; those that stream a checkpoint should leave their memory alone.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, _KEEP)
        library.mallopt(_M_TRIM_THRESHOLD, _KEEP)
