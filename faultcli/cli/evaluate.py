"""faultcli evaluate: accuracy as it is, and as stored."""

from __future__ import annotations

from dataclasses import dataclass

from faultcli.cli import options
from faultcli.cli.console import stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.groups import AtRisk, Correcting, Judged, OneMemory, Output

RARE = ("target", "include", "exclude", "window", "unlabelled", "batch_size", "device", "mean", "std", "answer")


@dataclass(frozen=True)
class StoredAs(OneMemory):
    """How tensors are stored, with what protections are designed for."""

    ber: options.DesignBer = None


@grouped(rare=RARE)
def evaluate(
    opened: Judged,
    stored_as: StoredAs,
    correcting: Correcting,
    at_risk: AtRisk,
    output: Output,
    model: options.OptionalModel = None,
) -> None:
    """Measure a checkpoint without faults: as it is, as it reads from a memory of another number format, and corrected.

    With --corrector, MODEL may also be a damaged copy of the model that the corrector was trained for.

    Example: faultcli evaluate --format q2.5
    """
    from faultcli.campaign.subject import Subject
    from faultcli.campaign.without_faults import evaluate_corrected, evaluate_stored
    from faultcli.cli.session import note_what_runs
    from faultcli.recover.applied import AppliedCorrection
    from faultcli.report.document import outcome_document
    from faultcli.report.table import evaluation_table

    rate = None if stored_as.ber is None else options.explained_rate(stored_as.ber, output.quiet).ber_per_bit
    correct = correcting.load()
    subject = Subject.open(model, opened.data, **opened.opening(at_risk))
    note_what_runs(subject, quiet=output.quiet)
    workload, image = subject.workload, subject.memory(stored_as.format, stored_as.protect, rate)
    original, stored = evaluate_stored(image, workload, subject.tensors)
    corrected = None
    if correct is not None:
        answering = subject.classifier("--corrector")
        looks = correct.corrector.needs_window
        window_inputs = subject.looking_at(correcting.unlabelled).unlabelled if looks else None
        correction = AppliedCorrection(answering, window_inputs, correct)
        corrected = evaluate_corrected(image, answering, subject.tensors, correction)
    write_json(
        {
            "schema": "faultcli.evaluate/1",
            "inputs": len(workload),
            "preprocessing": workload.preparation or None,
            "format": stored_as.format,
            "protect": stored_as.protect,
            "overhead_bits_per_weight": image.overhead_bits_per_weight,
            "original": outcome_document(original),
            "stored": outcome_document(stored),
            "corrected": None if corrected is None else outcome_document(corrected),
        },
        output.json,
    )
    if output.json != "-":
        states = {"original": original, f"stored as {stored_as.format}": stored, "corrected": corrected}
        stdout().print(evaluation_table(states, len(workload)))
