"""What the commands that run a model have in common: what is opened, and what trials are run with."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faultcli.cli.console import note
from faultcli.errors import UsageError
from faultcli.report.text import counted

if TYPE_CHECKING:
    from faultcli.activations.guard import GuardId, Restrict
    from faultcli.activations.layers import SeenOutputs
    from faultcli.campaign.pilot import Pilot
    from faultcli.campaign.plan import Arm, Plan
    from faultcli.campaign.provenance import Provenance
    from faultcli.campaign.subject import Subject
    from faultcli.campaign.trials import RunWith
    from faultcli.checkpoint import Checkpoint
    from faultcli.checkpoint.packed import Packed
    from faultcli.cli.campaign_options import Guarding, Running
    from faultcli.cli.options import AtRisk, Correcting, Hardening, ModelAndData
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.memories import Rate
    from faultcli.protect.chain import Chain
    from faultcli.recover.applied import Correct
    from faultcli.workload.metrics import Outcome

_MOST_THREADS = 1024
_LAYERS = 8  # names in a note


@contextmanager
def naming(checkpoint: Checkpoint, names: Sequence[str] = ()) -> Iterator[None]:
    """Say of which checkpoint a tensor is that cannot be stored, and which others cannot for the same reason."""
    from faultcli.errors import FormatError
    from faultcli.injection import about_checkpoint

    try:
        yield
    except FormatError as error:
        raise about_checkpoint(error, checkpoint, names) from None


def corrector_of(correcting: Correcting) -> Correct | None:
    """Load the corrector that is asked for."""
    from faultcli.recover.applied import Correct

    return Correct.asked(correcting.corrector, correcting.window, correcting.labelled)


def memories_of(model: str | None, formats: Sequence[str], chains: Sequence[str]) -> tuple[list[str], list[Chain]]:
    """Read the formats and protections of memories that are asked for; those of a hardened or quantised file are its
    own."""
    from faultcli.campaign.subject import open_checkpoint
    from faultcli.checkpoint.packed import Packed
    from faultcli.hardened.read import Hardened, stored_as
    from faultcli.protect.plan_file import read_chain
    from faultcli.protect.quantised_tensor import refuse_other_memories

    parsed, checkpoint = [read_chain(text) for text in chains], open_checkpoint(model)
    hardened = Hardened.of(checkpoint)
    packed = Packed.of(checkpoint) if hardened is None else None
    if packed is not None:
        refuse_other_memories(packed, formats, parsed)
    elif hardened is None:
        for chain in parsed:
            chain.check_plain()
    return stored_as(hardened, formats, parsed)


def arms_of(
    model: str | None,
    hardening: Hardening,
    laws: Sequence[FaultLaw],
    correct: Correct | None,
    guards: Sequence[GuardId | None] = (),
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
        guards,
    )


def guards_asked(hardening: Guarding) -> list[Restrict | None]:
    """Read how outputs of layers are guarded."""
    from faultcli.activations.guard import guards_of_texts

    return guards_of_texts(hardening.guard_activations or [], hardening.guard_bounds)


def open_subject(model: str | None, workload: ModelAndData, at_risk: AtRisk, correct: Correct | None = None) -> Subject:
    """Open what is put to the test, and refuse a corrector that was trained for another model."""
    from faultcli.campaign.subject import Subject

    subject = Subject.open(model, workload.data, **workload.opening(at_risk))
    if correct is not None:
        correct.corrector.check_model(subject.checkpoint_hash)
    return subject


def opened_with_notes(
    model: str | None,
    workload: ModelAndData,
    at_risk: AtRisk,
    arms: Sequence[Arm],
    correct: Correct | None = None,
    *,
    quiet: bool,
) -> Subject:
    """Open what is put to the test, and say what a user may not expect of it and of the memories that it lies in."""
    subject = open_subject(model, workload, at_risk, correct)
    note_what_runs(subject, quiet=quiet)
    note_doubts(subject, ((arm.format, arm.protect) for arm in arms), quiet=quiet)
    if correct is not None:
        strange = (correct.unfamiliar(arm.format, arm.protect.text, arm.fault.spec) for arm in arms if arm.correct)
        for text in dict.fromkeys(text for text in strange if text is not None):
            note(f"warning: {text}", quiet=quiet)
    return subject


def provenance_of(subject: Subject, command: str, rates: Sequence[Rate]) -> Provenance:
    """Say where a campaign's numbers will come from."""
    from faultcli.report.document import rates_document

    return subject.provenance(command, rates_document(rates))


def note_what_was_found(checkpoint: Checkpoint | None, *, quiet: bool) -> None:
    """Say what a user may not expect of a checkpoint that was opened."""
    for found in () if checkpoint is None else checkpoint.notes:
        note(f"warning: {found}", quiet=quiet)


def note_not_at_risk(checkpoint: Checkpoint, at_risk: AtRisk, *, quiet: bool) -> None:
    """Say that most of a file that is no memory of its own is not at risk, because of its dtypes; and which tensors
    stay as they are because they are of a type that is not read."""
    from faultcli.checkpoint.locate import some
    from faultcli.checkpoint.packed import Packed
    from faultcli.faults.selection import Selection
    from faultcli.hardened.read import Hardened

    left_out = Selection(*at_risk.selection).left_out(checkpoint.tensors.values())
    if left_out is not None and Hardened.of(checkpoint) is None and Packed.of(checkpoint) is None:
        note(f"warning: {checkpoint.path}: {left_out}", quiet=quiet)
    if unread := [f"{info.name} ({info.unread})" for info in checkpoint.tensors.values() if info.unread is not None]:
        note(f"{checkpoint.path}: passed through as bytes: {some(unread)}", quiet=quiet)


def with_channels(
    checkpoint: Checkpoint, names: Sequence[str], arch: str | None, *, counts: bool, quiet: bool
) -> Checkpoint:
    """Return a plain file with the output channels of its tensors, if it `counts` what they are, where they are no
    slices of the first dimension; say which these are, or that nobody knows."""
    from faultcli.modules import note_on
    from faultcli.workload.models.channels import file_channels

    if not counts:
        return checkpoint
    found = file_channels(checkpoint, arch)
    channels = {name: own for name, own in found.channels.items() if name in set(names)}
    text = note_on(channels)
    if text is not None:
        note(text, quiet=quiet)
    if found.unknown is not None and any(len(checkpoint.info(name).shape) > 1 for name in names):
        note(
            "output channels: slices of the first dimension, as of linear layers and convolutions; no network says"
            f" otherwise ({found.unknown}): name one with --arch",
            quiet=quiet,
        )
    return checkpoint.read_as(channels)


def note_left_out(checkpoint: Checkpoint, written: Path, *, quiet: bool) -> None:
    """Say what lies beside a checkpoint and is not beside what was written."""
    from faultcli.checkpoint.companions import companions_of

    if checkpoint.kind != "file":
        beside = companions_of(checkpoint.directory, checkpoint.names, checkpoint.nbytes, written)
        if beside.left_out is not None:
            note(beside.left_out, quiet=quiet)


def note_what_runs(subject: Subject, *, quiet: bool) -> None:
    """Say what a user may not expect of the model."""
    from faultcli.campaign.subject import DEMO

    note_what_was_found(subject.checkpoint, quiet=quiet)
    if subject.hardened:
        memory = f"{subject.hardened.format} behind {subject.hardened.chain.label}"
        note(f"{subject.model}: is hardened; faults hit its own words, {memory}", quiet=quiet)
    if subject.quantised:
        note(quantised_note(subject.model, subject.quantised.packed), quiet=quiet)
    if subject.factors:
        note(f"{subject.model}: is scaled; its memory holds c·w where --protect says nothing else", quiet=quiet)
    if subject.layers is not None:
        note(layers_note(subject.layers), quiet=quiet)
    demo = "no MODEL named: the embedded demo, " if subject.model == DEMO else ""
    note(demo + subject.workload.describe(), quiet=quiet)
    for doubt in subject.doubts():
        note(f"warning: {doubt}", quiet=quiet)


def note_original(subject: Subject, original: Outcome, *, quiet: bool) -> None:
    """Say what may be wrong with a model before any fault: its answers vary by themselves, or are no better than
    chance, and why that may be."""
    from faultcli.report.numbers import percent
    from faultcli.workload.chance import no_better_than_chance
    from faultcli.workload.classifier import Workload

    if (noise := subject.workload.noise) is not None:
        note(
            f"warning: {percent(noise)} % of the answers change from run to run without any fault (dropout that is on,"
            " noise, a counter in the network): SDC below that means nothing, and trials do not repeat exactly",
            quiet=quiet,
        )
    classes = subject.workload.classes if isinstance(subject.workload, Workload) else None
    right = original.correct1
    if classes is None or right is None or not no_better_than_chance(right, original.n, classes):
        return
    likely = "labels that count other classes (,classes=FILE.csv, ,offset=N), other preprocessing (--mean, --std)"
    note(
        f"warning: without faults top-1 is {percent(original.top1)} %, no better than chance of {classes:,} classes;"
        f" likely causes: {likely}, weights that are not trained",
        quiet=quiet,
    )


def note_inputs(inputs: int, size: int | None, pilot: Pilot | None, *, quiet: bool) -> None:
    """Say how many inputs a trial runs, and why."""
    chosen = f"all {inputs:,} inputs" if size is None else f"{size:,} of {inputs:,} inputs"
    why = "as in the store" if size is not None else "so few that fewer save nothing"
    if pilot is not None:
        between, within = 100 * pilot.between**0.5, 100 * pilot.within**0.5
        why = (
            f"of the answers that change, fault maps vary by ± {between:.1f} points and single inputs by"
            f" ± {within:.1f}; a map costs {1000 * pilot.map_seconds:.3g} ms, an input {1000 * pilot.input_seconds:.3g}"
        )
    note(f"--inputs-per-trial auto: {chosen} per trial: {why}", quiet=quiet)


def layers_note(seen: SeenOutputs) -> str:
    """Say which layers have their outputs at risk."""
    names = list(seen.elements)
    shown = ", ".join(names[:_LAYERS]) + (f" and {len(names) - _LAYERS} more" if len(names) > _LAYERS else "")
    values = sum(seen.elements.values()) / max(1, seen.inputs)
    return (
        f"outputs of {counted(len(names), 'layer')} are at risk, {values:,.0f} values per input: {shown}; what the"
        " network computes between its layers is not"
    )


def quantised_note(model: str, packed: Packed) -> str:
    """Say how a quantised checkpoint is taken."""
    computed = "its library's dtype" if packed.dtype is None else str(packed.dtype).removeprefix("torch.")
    return (
        f"{model}: is quantised ({packed.layout.title}); faults hit the words of its file, the model computes with"
        f" what these read as, in {computed}"
    )


def note_doubts(subject: Subject, memories: Iterable[tuple[str, Chain]], *, quiet: bool) -> None:
    """Say what may go wrong with protections in the formats that they are asked for, and where output channels are
    not what one expects."""
    from faultcli.checkpoint import DTYPES
    from faultcli.formats import format_for
    from faultcli.modules import note_on
    from faultcli.protect.chain import by_row

    memories = list(memories)
    own_words = subject.hardened is not None or subject.quantised is not None
    if not own_words and any(by_row(*memory) for memory in memories):
        text = note_on({name: own for name, own in subject.channels.items() if name in subject.tensors})
        if text is not None:
            note(text, quiet=quiet)
    dtypes = {str(tensor.dtype) for tensor in subject.tensors.values()}
    natives = [dtype for dtype, (_, name) in DTYPES.items() if f"torch.{name}" in dtypes]
    if subject.quantised is not None:
        for doubt in dict.fromkeys(doubt for _, chain in memories for doubt in subject.quantised.doubts(chain)):
            note(f"warning: {doubt}", quiet=quiet)
        return
    behind = [(name, chain) for name, chain in memories if any(chain.all_links)]  # else there is nothing to doubt
    doubts = [doubt for name, chain in behind for dtype in natives for doubt in chain.doubts(format_for(name, dtype))]
    for doubt in dict.fromkeys(doubts):
        note(f"warning: {doubt}", quiet=quiet)


def looking(subject: Subject, arms: Sequence[Arm], correct: Correct | None, unlabelled: str | None) -> Subject:
    """Load what recalibrations and correctors of a campaign look at, if any does."""
    from faultcli.campaign.looks import check_looks

    if any(arm.looks for arm in arms):
        check_looks(subject, arms)
    if unlabelled is not None and any(arm.guard for arm in arms):
        return subject.looking_at(unlabelled)
    if any(arm.recalibrate or (arm.correct and correct and correct.needs_inputs) for arm in arms):
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
    plan: Plan,
    subject: Subject,
    running: Running,
    threads: int,
    seconds: float | None,
    provenance: Provenance,
    *,
    quiet: bool,
) -> Iterator[RunWith]:
    """Give what trials are run with, for the length of a `with` block; an interrupt says what is kept. A plan that
    makes no sense leaves no store."""
    from faultcli.campaign.executors import executor_of
    from faultcli.campaign.store import Store
    from faultcli.campaign.trials import check_plan

    check_plan(plan, subject)
    with executor_of(running.workers, running.ray, threads) as executor, closing(Store.open(running.store)) as kept:
        try:
            yield {
                **{"executor": executor, "store": kept, "budget_seconds": seconds, "provenance": provenance},
                "on_original": partial(note_original, subject, quiet=quiet),
                "on_inputs": partial(note_inputs, len(subject.workload), quiet=quiet),
            }
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
