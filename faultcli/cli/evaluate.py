"""faultcli evaluate: accuracy as it is, and as stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from faultcli.cli import options
from faultcli.cli.console import note, stdout, write_json
from faultcli.cli.grouping import RARE, grouped
from faultcli.cli.places import WRITES

if TYPE_CHECKING:
    from faultcli.campaign.subject import Subject

KERNELS = ("decoded", "library")


@dataclass(frozen=True)
class WithKernel(options.Judged):
    """What runs on what, what its answers are judged by, and by whose kernels."""

    kernel: Annotated[
        str,
        options.workload(
            "K",
            "Of a quantised MODEL: decoded, or library: run it with the library of its layout as well, and compare.",
            default=True,
        ),
        RARE,
    ] = "decoded"

    @property
    def by_library(self) -> bool:
        """Whether the library of a quantised checkpoint's layout is to run it, too."""
        from faultcli.errors import UsageError, unknown_name

        if self.kernel not in KERNELS:
            raise unknown_name("kernel", self.kernel, KERNELS)
        if self.kernel == "library" and self.arch not in (None, "hf"):
            problem = f"--kernel library: runs the network that config.json describes, and not --arch {self.arch}"
            raise UsageError(problem, "leave one of the two out")
        return self.kernel == "library"


@grouped
def evaluate(
    *,
    model: options.OptionalModel = None,
    workload: WithKernel,
    memory: options.OneMemory,
    ber: Annotated[
        str | None,
        options.faults("P", "Bit-error rate that scale=auto and posterior are designed for; no faults are injected."),
    ] = None,
    correcting: options.Correcting,
    save_bounds: Annotated[
        Path | None,
        options.output(
            "FILE.json",
            "Write the bounds of what layers give on clean inputs, for `campaign --guard-bounds` and for a device.",
        ),
        WRITES,
        RARE,
    ] = None,
    at_risk: options.AtRisk,
    shown: options.Shown,
) -> None:
    """Measure a checkpoint without faults: as it is, as it reads from a memory of another number format, and corrected.

    With --corrector, MODEL may also be a damaged copy of the model that the corrector was trained for.

    Example: faultcli evaluate --format q2.5
    """
    from faultcli.activations.asked import check_memory, has_scale
    from faultcli.campaign.activations import activation_memory, with_clean_inputs
    from faultcli.campaign.bench import as_stored
    from faultcli.campaign.without_faults import evaluate_by_library, evaluate_corrected, evaluate_stored
    from faultcli.cli.session import corrector_of, memories_of, note_doubts, note_original, note_what_runs, open_subject
    from faultcli.files import check_output
    from faultcli.recover.applied import AppliedCorrection
    from faultcli.report.document import library_document, outcome_document
    from faultcli.report.table import LIBRARY, evaluation_table, labels_line, library_line

    if save_bounds is not None:
        check_output(save_bounds, force=False)
    compares = workload.by_library
    rate = None if ber is None else options.explained_rate(ber, quiet=shown.quiet).ber_per_bit
    correct = corrector_of(correcting)
    subject = open_subject(model, workload, at_risk)
    note_what_runs(subject, quiet=shown.quiet)
    by_library = evaluate_by_library(subject) if compares else None
    formats, chains = memories_of(model, [memory.format], [memory.protect])
    format, chain = formats[0], chains[0]
    note_doubts(subject, [(format, chain)], quiet=shown.quiet)
    check_memory(subject.selection, format, chain)
    if correct is not None:
        subject.selection.check_tensors("--corrector")
    if has_scale(format) or save_bounds is not None:
        subject = with_clean_inputs(subject, correcting.unlabelled)
    measured, image = subject.workload, subject.memory(format, chain, rate)
    original, stored = evaluate_stored(image, measured, subject.tensors, activation_memory(subject, format))
    note_original(subject, original, quiet=shown.quiet)
    if save_bounds is not None:
        with as_stored(image, measured, subject.tensors):
            _save_bounds(subject, save_bounds, quiet=shown.quiet)
    corrected = None
    if correct is not None:
        answering = subject.answering("--corrector")
        window_inputs = subject.looking_at(correcting.unlabelled).unlabelled if correct.needs_inputs else None
        correction = AppliedCorrection(answering, window_inputs, correct)
        corrected = evaluate_corrected(image, answering, subject.tensors, correction)
    write_json(
        {
            "schema": "faultcli.evaluate/1",
            "inputs": len(measured),
            "preprocessing": measured.preparation or None,
            "format": format,
            "protect": chain.text,
            "overhead_bits_per_weight": image.overhead_bits_per_weight,
            "original": outcome_document(original),
            "stored": outcome_document(stored),
            "corrected": None if corrected is None else outcome_document(corrected),
            "labels_used": None if corrected is None else corrected.labels_used,
            "library": None if by_library is None else library_document(by_library),
        },
        shown.json,
    )
    if shown.json != "-":
        states = {"original": original, f"stored as {format}": stored, "corrected": corrected}
        states[LIBRARY] = None if by_library is None else by_library.outcome
        stdout().print(evaluation_table(states, len(measured)))
        if corrected is not None and corrected.labels_used is not None:
            stdout().print(labels_line(corrected.labels_used), soft_wrap=True)
        if by_library is not None:
            stdout().print(library_line(by_library), soft_wrap=True)


def _save_bounds(subject: Subject, path: Path, *, quiet: bool) -> None:
    """Write the bounds of what layers give now."""
    from faultcli.campaign.activations import clean_bounds
    from faultcli.report.text import counted

    bounds = clean_bounds(subject, subject.selection.layers or "*")
    bounds.save(path)
    layers = counted(len(bounds.layers), "layer")
    note(f"bounds of {layers} on {bounds.inputs:,} inputs of {bounds.data}: {path}", quiet=quiet)
