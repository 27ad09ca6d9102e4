"""What the commands that run a model have in common: what is opened, and what trials are run with."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from faultcli.cli.console import note
from faultcli.errors import UsageError
from faultcli.report.text import counted

if TYPE_CHECKING:
    from faultcli.campaign.plan import Arm
    from faultcli.campaign.provenance import Provenance
    from faultcli.campaign.subject import Subject
    from faultcli.campaign.trials import RunWith
    from faultcli.checkpoint import Checkpoint
    from faultcli.cli.campaign_options import Running
    from faultcli.cli.options import AtRisk, Correcting, Hardening, ModelAndData
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.memories import Rate
    from faultcli.formats import ChannelsOf
    from faultcli.protect.chain import Chain
    from faultcli.recover.applied import Correct

_MOST_THREADS = 1024


def corrector_of(correcting: Correcting) -> Correct | None:
    """Load the corrector that is asked for."""
    from faultcli.recover.applied import Correct

    return None if correcting.corrector is None else Correct.load(correcting.corrector, correcting.window)


def memories_of(model: str | None, formats: Sequence[str], chains: Sequence[str]) -> tuple[list[str], list[Chain]]:
    """Read the formats and protections of memories that are asked for; those of a hardened file are its own."""
    from faultcli.campaign.subject import open_checkpoint
    from faultcli.hardened.read import Hardened, stored_as
    from faultcli.protect.chain import parse_chain

    parsed = [parse_chain(text) for text in chains]
    return stored_as(Hardened.of(open_checkpoint(model)), formats, parsed)


def arms_of(
    model: str | None, hardening: Hardening, laws: Sequence[FaultLaw], correct: Correct | None
) -> tuple[Arm, ...]:
    """Multiply the lists of formats, laws, protections and corrections into arms."""
    from faultcli.campaign.plan import cross
    from faultcli.recover.batchnorm import parse_recalibration

    formats = [name.strip() for name in hardening.format.split(",")]
    formats, chains = memories_of(model, formats, hardening.protect or [])
    return cross(
        formats,
        laws,
        chains,
        [parse_recalibration(text) for text in hardening.recalibrate or []],
        [None] if correct is None else [None, correct],
    )


def open_subject(model: str | None, workload: ModelAndData, at_risk: AtRisk, correct: Correct | None = None) -> Subject:
    """Open what is put to the test, and refuse a corrector that was trained for another model."""
    from faultcli.campaign.subject import Subject

    subject = Subject.open(model, workload.data, **workload.opening(at_risk))
    if correct is not None:
        correct.corrector.check_model(subject.checkpoint_hash)
    return subject


def provenance_of(subject: Subject, command: str, rates: Sequence[Rate]) -> Provenance:
    """Say where a campaign's numbers will come from."""
    from faultcli.report.document import rates_document

    return subject.provenance(command, rates_document(rates))


def note_what_runs(subject: Subject, *, quiet: bool) -> None:
    """Say what a user may not expect of the model."""
    from faultcli.campaign.subject import DEMO

    if subject.hardened:
        memory = f"{subject.hardened.format} behind {subject.hardened.chain.text}"
        note(f"{subject.model}: is hardened; faults hit its own words, {memory}", quiet=quiet)
    if subject.factors:
        note(f"{subject.model}: is scaled; its memory holds c·w where --protect says nothing else", quiet=quiet)
    demo = "no MODEL named: the embedded demo, " if subject.model == DEMO else ""
    note(demo + subject.workload.describe(), quiet=quiet)
    for doubt in subject.doubts():
        note(f"warning: {doubt}", quiet=quiet)


def note_left_out(checkpoint: Checkpoint, at_risk: AtRisk, *, quiet: bool) -> None:
    """Say what of a checkpoint is not at risk and a user may expect to be."""
    from faultcli.faults.selection import Selection

    left_out = Selection(*at_risk.selection).left_out(checkpoint.tensors.values())
    if left_out is not None:
        note(f"warning: {left_out}", quiet=quiet)


def channels_in(
    checkpoint: Checkpoint, names: Sequence[str], arch: str | None, *, by_channel: bool, quiet: bool
) -> ChannelsOf:
    """Return the output channels of tensors of a file, where they count and are no slices of the first dimension; say
    what they are, or that nobody knows."""
    from faultcli.modules import note_on
    from faultcli.workload.models.channels import file_channels

    if not by_channel:
        return {}
    found = file_channels(checkpoint, arch)
    channels = {name: own for name, own in found.channels.items() if name in names}
    if (text := note_on(channels)) is not None:
        note(text, quiet=quiet)
    if found.unknown is not None and any(len(checkpoint.info(name).shape) > 1 for name in names):
        note(
            f"output channels are taken to be slices of the first dimension: {found.unknown}; --arch says otherwise",
            quiet=quiet,
        )
    return channels


def note_doubts(subject: Subject, memories: Iterable[tuple[str, Chain]], *, quiet: bool) -> None:
    """Say what may go wrong with protections in the formats that they are asked for, and which values these take for an
    output channel."""
    from faultcli.checkpoint import DTYPES
    from faultcli.formats import parse_format, word_format
    from faultcli.modules import note_on
    from faultcli.protect.chain import by_channel

    memories = list(memories)
    if subject.hardened is None and any(by_channel(name, chain) for name, chain in memories):
        text = note_on(subject.channels)
        if text is not None:
            note(text, quiet=quiet)
    dtypes = {str(tensor.dtype) for tensor in subject.tensors.values()}
    natives = [dtype for dtype, (_, name) in DTYPES.items() if f"torch.{name}" in dtypes]
    doubts = [
        doubt
        for name, chain in memories
        for dtype in natives
        for doubt in chain.doubts(word_format(dtype) if name == "native" else parse_format(name))
    ]
    for doubt in dict.fromkeys(doubts):
        note(f"warning: {doubt}", quiet=quiet)


def looking(subject: Subject, arms: Sequence[Arm], correct: Correct | None, unlabelled: str | None) -> Subject:
    """Load what recalibrations and correctors of a campaign look at, if any does."""
    if any(arm.looks for arm in arms):
        subject.classifier("--recalibrate" if correct is None else "--corrector")
    if any(arm.recalibrate or (arm.correct and correct and correct.corrector.needs_window) for arm in arms):
        return subject.looking_at(unlabelled)
    return subject


def set_threads(threads: int | None, *, several: bool) -> int:
    """Set how many threads compute, in this process and in each worker: what is asked for, else one where several
    processes share the machine, else all cores. Floating-point results depend on it, so it is part of the plan."""
    from faultcli.workload.process import prepare

    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"--threads {threads}: 1 to {_MOST_THREADS} threads compute", "--threads 1")
    return prepare(1 if threads is None and several else threads)


def in_seconds(budget: float | None) -> float | None:
    """Return --budget, which is in minutes, in seconds."""
    if budget is not None and not budget > 0:
        raise UsageError(f"--budget {budget:g}: minutes are more than 0", "--budget 10")
    return None if budget is None else 60 * budget


@contextmanager
def conducting(
    running: Running, threads: int, seconds: float | None, provenance: Provenance, *, quiet: bool
) -> Iterator[RunWith]:
    """Give what trials are run with, for the length of a `with` block; an interrupt says what is kept."""
    from faultcli.campaign.executors import executor_of
    from faultcli.campaign.store import Store

    with executor_of(running.workers, running.ray, threads) as executor, closing(Store.open(running.store)) as kept:
        try:
            yield {"executor": executor, "store": kept, "budget_seconds": seconds, "provenance": provenance}
        except KeyboardInterrupt:
            note(_where_trials_are(running.store, kept.trials), quiet=quiet)
            raise


def command_line() -> str:
    """The command as a shell takes it."""
    import shlex

    return shlex.join(["faultcli", *sys.argv[1:]])


def _where_trials_are(store: Path | None, kept: int) -> str:
    """What to tell somebody who interrupted a campaign."""
    if store is None:
        return "nothing is kept: with --store FILE a campaign continues where it was interrupted"
    verb = "is" if kept == 1 else "are"
    return f"{counted(kept, 'trial')} {verb} kept in {store}; the same command continues from there"
