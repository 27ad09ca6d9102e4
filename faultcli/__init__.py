"""faultcli: what happens to a neural network when its stored bits flip, and what to do about it.

The public names below are all that programs need; they are imported when they are first used, so that the command line
answers at once. Everything else may move. From the bottom to the top:

    version     the number
    errors      typed errors, each with a remedy and the exit code of a command
    files       outputs that appear whole or not at all
    foreign     small files of others, taken in with a bound
    formats     number formats: values to codes and back
    checkpoint  safetensors in and out
    faults      laws that faults follow, and maps of those that were drawn
    protect     protections on the way into the memory and out of it
    live        where a model that runs reads a stored tensor
    modules     which values of a tensor are an output channel, by the module that reads it
    memory      the checkpoint as it lies in the memory, and patches of what faults touch
    activations  what layers give, as it lies in a memory for one inference
    injection   a corrupted copy of a checkpoint, and back
    difference  what differs between a checkpoint and a memory dump, and the law that looks like
    scaling     scaled checkpoints, and back
    hardened    the memory image on disk: written, read, damaged, repaired; and the reader in C that a device has
    conversion  checkpoints of other libraries made safetensors
    quantised   checkpoints with quantised weights as the memory that they are
    seal        checkpoints whose damage shows, and comes back; and signs of damage without a seal
    prediction  what faults would do to each tensor, without running the model
    survey      what a checkpoint holds
    workload    model, data and metrics: what a trial runs
    recover     function recovered from outside the memory
    campaign    many trials: planned, run, kept, judged
    where       which layers and bits carry the risk, from single flips
    report      what came out, for people and machines
    api         the front door: what a program calls
    extend      what extensions build on
    cli         the command line
    __main__    `python -m faultcli`
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faultcli.version import __version__

if TYPE_CHECKING:
    from faultcli.api import Result, faulty, inject, read_result, replay, run_campaign, train_corrector, write_report
    from faultcli.campaign.safety import SafetyRates
    from faultcli.campaign.subject import Subject
    from faultcli.checkpoint import Checkpoint
    from faultcli.errors import FaultcliError
    from faultcli.faults.laws import parse_law
    from faultcli.faults.maps import FaultMap
    from faultcli.memory import MemoryImage
    from faultcli.recover.file import load_corrector
    from faultcli.recover.streaming import StreamingCorrector

_HOME = {
    "Checkpoint": "faultcli.checkpoint",
    "FaultMap": "faultcli.faults.maps",
    "FaultcliError": "faultcli.errors",
    "MemoryImage": "faultcli.memory",
    "Result": "faultcli.api",
    "SafetyRates": "faultcli.campaign.safety",
    "StreamingCorrector": "faultcli.recover.streaming",
    "Subject": "faultcli.campaign.subject",
    "faulty": "faultcli.api",
    "inject": "faultcli.api",
    "load_corrector": "faultcli.recover.file",
    "parse_law": "faultcli.faults.laws",
    "read_result": "faultcli.api",
    "replay": "faultcli.api",
    "run_campaign": "faultcli.api",
    "train_corrector": "faultcli.api",
    "write_report": "faultcli.api",
}

__all__ = [
    "Checkpoint",
    "FaultMap",
    "FaultcliError",
    "MemoryImage",
    "Result",
    "SafetyRates",
    "StreamingCorrector",
    "Subject",
    "__version__",
    "faulty",
    "inject",
    "load_corrector",
    "parse_law",
    "read_result",
    "replay",
    "run_campaign",
    "train_corrector",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'faultcli' has no attribute {name!r}")
    found = getattr(import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
