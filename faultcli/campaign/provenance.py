"""Where a campaign's numbers come from: what ran on what, with which versions, by which command."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from faultcli.version import __version__

_RECORDED = ("torch", "numpy", "safetensors")


@dataclass(frozen=True)
class Provenance:
    """What a reader needs to believe a campaign and to run it again. Changes no result by itself.

    `command` is a line for a shell; `versions` maps packages (and `python`, `platform`) to what was installed.
    """

    model: str  # as the user named it
    checkpoint_sha256: str
    architecture: str
    data: str
    data_sha256: str
    device: str
    batch_size: int
    threads: int  # per process
    command: str
    versions: Mapping[str, str]
    tensors: Mapping[str, Sequence[int]] = field(default_factory=dict)  # shapes of those at risk
    memories: Sequence[Mapping[str, Any]] = ()  # those that --ber named: their rates, and the sources of these
    preprocessing: str = ""  # what is done to the inputs, for people; empty: nobody said


def installed_versions() -> dict[str, str]:
    """Return the versions that a result depends on; a package that is not installed is left out."""
    found = {"faultcli": __version__, "python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
