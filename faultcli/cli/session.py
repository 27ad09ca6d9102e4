"""What the commands that run a model have in common, around a subject."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from faultcli.cli.console import note

if TYPE_CHECKING:
    from faultcli.campaign.plan import Arm
    from faultcli.campaign.provenance import Provenance
    from faultcli.campaign.subject import Subject
    from faultcli.checkpoint import Checkpoint
    from faultcli.cli.options import AtRisk, Correcting, Hardening, ModelAndData
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.memories import Rate
    from faultcli.recover.applied import Correct


@contextmanager
def naming(checkpoint: Checkpoint) -> Iterator[None]:
    """Say of which checkpoint a tensor is that cannot be stored."""
    from faultcli.errors import FormatError
    from faultcli.injection import about_checkpoint

    try:
        yield
    except FormatError as error:
        raise about_checkpoint(error, checkpoint) from None


def corrector_of(correcting: Correcting) -> Correct | None:
    """Load the corrector that is asked for."""
    from faultcli.recover.applied import Correct

    return None if correcting.corrector is None else Correct.load(correcting.corrector, correcting.window)


def arms_of(hardening: Hardening, laws: Sequence[FaultLaw], correct: Correct | None) -> tuple[Arm, ...]:
    """Multiply the lists of formats, laws, protections and corrections into arms."""
    from faultcli.campaign.plan import cross
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.batchnorm import parse_recalibration

    return cross(
        [name.strip() for name in hardening.format.split(",")],
        laws,
        [parse_chain(text) for text in hardening.protect or []],
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

    if subject.factors:
        note(f"{subject.model}: is scaled; its memory holds c·w where --protect says nothing else", quiet=quiet)
    demo = "no MODEL named: the embedded demo, " if subject.model == DEMO else ""
    note(demo + subject.workload.describe(), quiet=quiet)
    doubt = subject.workload.doubt()
    if doubt is not None:
        note(f"warning: {subject.workload.data_name}: {doubt}", quiet=quiet)


def looking(subject: Subject, arms: Sequence[Arm], correct: Correct | None, unlabelled: str | None) -> Subject:
    """Load what recalibrations and correctors of a campaign look at, if any does."""
    if any(arm.looks for arm in arms):
        subject.classifier("--recalibrate" if correct is None else "--corrector")
    if any(arm.recalibrate or (arm.correct and correct and correct.corrector.needs_window) for arm in arms):
        return subject.looking_at(unlabelled)
    return subject
