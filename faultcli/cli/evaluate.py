"""faultcli evaluate: accuracy as it is, and as stored."""

from __future__ import annotations

from faultcli.cli import options
from faultcli.cli.console import stdout, write_json


def evaluate(
    model: options.OptionalModel = None,
    data: options.Data = None,
    arch: options.Arch = None,
    format: options.Format = "native",
    protect: options.Protect = "none",
    ber: options.DesignBer = None,
    corrector: options.Corrector = None,
    window: options.Window = 1000,
    unlabelled: options.Unlabelled = None,
    target: options.Target = "weights",
    include: options.Include = None,
    exclude: options.Exclude = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    mean: options.Mean = None,
    std: options.Std = None,
    score: options.Score = None,
    answer: options.Answer = None,
    json: options.Json = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure a checkpoint without faults: as it is, as it reads from a memory of another number format, and corrected.

    With --corrector, MODEL may also be a damaged copy of the model that the corrector was trained for.

    Example: faultcli evaluate --format q2.5
    """
    from faultcli.campaign.stored import evaluate_corrected, evaluate_stored
    from faultcli.campaign.subject import Subject
    from faultcli.cli.session import note_what_runs
    from faultcli.recover.applied import AppliedCorrection, Correct
    from faultcli.report.document import outcome_document
    from faultcli.report.table import evaluation_table

    rate = None if ber is None else options.explained_rate(ber, quiet).ber_per_bit
    correct = None if corrector is None else Correct.load(corrector, window)
    subject = Subject.open(
        model,
        data,
        arch=arch,
        limit=limit,
        batch_size=batch_size,
        device=device,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        score=score,
        answer=answer,
        target=target,
        include=include or (),
        exclude=exclude or (),
    )
    note_what_runs(subject, quiet=quiet)
    workload, image = subject.workload, subject.memory(format, protect, rate)
    original, stored = evaluate_stored(image, workload, subject.tensors)
    corrected = None
    if correct is not None:
        answering = subject.classifier("--corrector")
        looks = correct.corrector.needs_window
        window_inputs = subject.looking_at(unlabelled).unlabelled if looks else None
        correction = AppliedCorrection(answering, window_inputs, correct)
        corrected = evaluate_corrected(image, answering, subject.tensors, correction)
    write_json(
        {
            "schema": "faultcli.evaluate/1",
            "inputs": len(workload),
            "preprocessing": workload.preparation or None,
            "format": format,
            "protect": protect,
            "overhead_bits_per_weight": image.overhead_bits_per_weight,
            "original": outcome_document(original),
            "stored": outcome_document(stored),
            "corrected": None if corrected is None else outcome_document(corrected),
        },
        json,
    )
    if json != "-":
        states = {"original": original, f"stored as {format}": stored, "corrected": corrected}
        stdout().print(evaluation_table(states, len(workload)))
