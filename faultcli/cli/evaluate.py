"""faultcli evaluate: accuracy as it is, and as stored."""

from __future__ import annotations

from faultcli.cli import options
from faultcli.cli.console import note, stdout, write_json


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
    json: options.Json = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure a checkpoint without faults: as it is, as it reads from a memory of another number format, and corrected.

    With --corrector, MODEL may also be a damaged copy of the model that the corrector was trained for.

    Example: faultcli evaluate --format q2.5
    """
    from faultcli.campaign.stored import evaluate_corrected, evaluate_stored
    from faultcli.cli.session import classifier, load_unlabelled, make_workload, naming, open_model
    from faultcli.faults.selection import select
    from faultcli.memory import MemoryImage
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.applied import AppliedCorrection, Correct
    from faultcli.report.document import outcome_document
    from faultcli.report.table import evaluation_table
    from faultcli.scaling import read_weights

    rate = None if ber is None else options.explained_rate(ber, quiet).ber_per_bit
    correct = None if corrector is None else Correct.load(corrector, window)
    checkpoint = open_model(model)
    names = select(checkpoint.tensors.values(), target=target, include=include or (), exclude=exclude or ())
    workload = make_workload(
        checkpoint, arch=arch, data=data, limit=limit, batch_size=batch_size, device=device, mean=mean, std=std
    )
    read, factors = read_weights(checkpoint)
    tensors = {name: read(name) for name in names}
    with naming(checkpoint):
        image = MemoryImage(tensors, format, parse_chain(protect), rate, factors)
    original, stored = evaluate_stored(image, workload, tensors)
    corrected = None
    if correct is not None:
        answering = classifier(workload, "--corrector")
        looks = correct.corrector.needs_window
        unlabelled_inputs = load_unlabelled(unlabelled, data, answering) if looks else None
        correction = AppliedCorrection(answering, unlabelled_inputs, correct)
        corrected = evaluate_corrected(image, answering, tensors, correction)
    write_json(
        {
            "schema": "faultcli.evaluate/1",
            "inputs": len(workload),
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
        note(workload.describe(), quiet=quiet)
