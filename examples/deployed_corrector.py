"""Wrap a deployed model: it answers, its memory fails, and a corrector beside it gives most of the answers back.

    python examples/deployed_corrector.py

On the embedded demo, in about a minute. The corrector sees logits only: no weights, and after training no labels.
"""

import faultcli as fc

WINDOW = 250


def main() -> None:
    """Train a corrector for a law, then meet faults of that law which it has never seen."""
    subject = fc.Subject.open(device="cpu")  # the embedded demo; or fc.Subject.of(model, loader)
    trained = fc.train_corrector(subject, "gaussian:0.1", window=WINDOW, maps=4, report_maps=2)
    for level in trained.levels:
        print(f"{level.fault}: {level.mean('corrupted'):.1%} right, {level.mean('corrected'):.1%} when corrected")

    device = subject.workload
    with fc.faulty(device.model, "gaussian:0.1", trial=999):
        logits = device.logits()  # what model(x) gives, batch after batch
    answer = fc.StreamingCorrector(trained.corrector, window=WINDOW)
    for batch in logits[:WINDOW].split(50):  # the first answers after the damage: it looks at them, unlabelled
        answer(batch)
    labels, damaged = device.labels[WINDOW:], logits[WINDOW:]
    before, after = ((z.argmax(1) == labels).float().mean().item() for z in (damaged, answer(damaged)))
    print(f"decision: {answer.correction.decision} {answer.correction.reason}".strip())
    print(f"damaged: {before:.1%}, corrected: {after:.1%} of {len(labels)} images")


if __name__ == "__main__":
    main()
