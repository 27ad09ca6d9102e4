"""What all tests share."""

from __future__ import annotations

import functools
import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer.main

from tests.warm import warm_programs


def pytest_configure() -> None:
    """What is started with nohup or in the background ignores signals, and so would every process of the tests.

    And typer builds the options of all commands anew for every call, which takes longer than most calls.
    """
    typer.main.get_command = functools.cache(typer.main.get_command)
    handlers = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_finish() -> None:
    """What the tests and their libraries are stays until the end: no garbage collection has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real data and weights: $FAULTCLI_DATA, or shared/data beside the repository."""
    path = Path(os.environ.get("FAULTCLI_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"needs real data: {path} is not there (set FAULTCLI_DATA)")
    return path


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """A folder for the path, whose `faultcli` starts at once; a process of its own all the same (tests/warm)."""
    with tempfile.TemporaryDirectory() as folder, warm_programs(Path(folder)) as programs:
        yield programs


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread, as sums in another order differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """Signals are inherited by every process that a later test starts."""
    before = _signals()
    yield
    assert _signals() == before


def _signals() -> tuple[object, ...]:
    numbers = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, []) if hasattr(signal, "pthread_sigmask") else set()
    return *map(signal.getsignal, numbers), mask
