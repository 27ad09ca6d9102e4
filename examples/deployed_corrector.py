"""Wrap a deployed model: it answers, its memory fails, and a corrector beside it gives most of the answers back.

    python examples/deployed_corrector.py

On the embedded demo, in about a minute. The corrector sees logits only: no weights, and after training no labels.
"""

from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.memory import MemoryImage
from faultcli.recover.base import Card
from faultcli.recover.experiment import Experiment, cut, shuffled, training_logits
from faultcli.recover.methods import TrainingOptions, train_corrector
from faultcli.recover.streaming import StreamingCorrector
from faultcli.workload.data import load_data
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.evaluate import WorkloadSpec, build_workload

WINDOW = 250


def main() -> None:
    """Train a corrector for a law, then meet faults of that law which it has never seen."""
    checkpoint = Checkpoint.open(demo_checkpoint_path())
    device = build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(device="cpu"))
    weights = {name: values for name, values in checkpoint.state().items() if values.dim() >= 2}
    image = MemoryImage(weights)
    looked_at, rest = cut(shuffled(load_data("digits,split=train"), seed=0), WINDOW)
    experiment = Experiment.around(image, device, rest, looked_at)

    law = parse_law("gaussian:0.1")
    data = training_logits(experiment, [law], maps=4, seed=0)
    card = Card(classes=10, model=checkpoint.sha256(), faults=(law.spec,))
    corrector = train_corrector("adaptive", data, card, TrainingOptions(window=WINDOW))

    assert experiment.window is not None
    with image.patch(image.draw(law, seed=0, trial=999)).applied(device.parameters):
        answer = StreamingCorrector(corrector, window=WINDOW)
        for batch in experiment.window.logits().split(50):  # the first inputs after the damage: unlabelled
            answer(batch)
        logits = device.logits()  # then logits = corrector(model(x)), batch after batch
        corrected = answer(logits)
    labels = device.labels
    before, after = ((z.argmax(1) == labels).float().mean().item() for z in (logits, corrected))
    print(f"decision: {answer.correction.decision} {answer.correction.reason}".strip())
    print(f"damaged: {before:.1%}, corrected: {after:.1%} of {len(labels)} images")


if __name__ == "__main__":
    main()
