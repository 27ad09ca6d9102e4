"""How a process computes that does the same over and over: with so many threads, and memory that it keeps."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
_ACTIVATIONS, _TILES = 1 << 30, 64 << 20  # bytes; larger blocks still go back to the system at once


def prepare(threads: int | None = None) -> int:
    """Make this process one that runs a model over and over: the command line, a worker and an actor all start here.

    Args:
        threads: that compute; None: as many as torch has by itself.

    Returns:
        How many threads compute.
    """
    import torch

    _keep_freed(_ACTIVATIONS)
    torch.set_num_threads(torch.get_num_threads() if threads is None else threads)
    return torch.get_num_threads()


def prepare_to_stream() -> None:
    """Make this process one that passes a checkpoint's tensors through memory, piece by piece.

    The temporaries of a piece are kept for the next one: they are small beside a tensor, and asking for them anew took
    a third of the time of `scale`.
    """
    _keep_freed(_TILES)


def _keep_freed(most: int) -> None:
    """Keep blocks up to so many bytes in this process once they are freed; elsewhere than under glibc, do nothing.

    By default glibc gives the activations of every layer back to the system and asks for them anew: page faults that
    took a quarter of the time of a ResNet-20 trial when this was measured.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, most)
        library.mallopt(_M_TRIM_THRESHOLD, most)
