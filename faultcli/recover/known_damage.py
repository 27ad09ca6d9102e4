"""Known damage: the damaged device is at hand, so the corrector may learn from its own logits, with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from faultcli.recover.adaptive.policy import IDENTITY, Blend, blend
from faultcli.recover.align import Alignment
from faultcli.recover.base import Array, Card, Correction, Corrector, CorrectorError, usable_rows
from faultcli.recover.damaged_logits import LabelledLogits
from faultcli.recover.edmn import EdmnOptions, Perceptron, known_damage_options, train_perceptron
from faultcli.recover.mixture.gaussians import ClassMixture, Rows, log_normalised
from faultcli.recover.parts import array, number
from faultcli.recover.reference import MOST_CLASSES, Reference

_HELD_BACK = 0.2  # of the training inputs, to choose by
_FEWEST = 50
# Weights of raw logits, network-corrected logits and the log probabilities of the Gaussian classes.
_BLENDS: tuple[Blend, ...] = (IDENTITY, (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.5), (0.0, 1.0, 1.0))


@dataclass(frozen=True)
class KnownDamageCorrector(Corrector):
    """A network on the standardised logits, one Gaussian per class, or both: what does best on held-back inputs.

    If nothing beats leaving the logits alone by more than its standard error, they are left alone.
    """

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "known damage: learned from the damaged device's own logits, with labels"

    alignment: Alignment
    network: Perceptron
    mixture: ClassMixture | None
    weights: Blend
    predicted_gain: float

    def adapt(self, window: Array) -> Correction:
        numbers = self.alignment.numbers
        numbers += self.network.numbers if self.weights[1] else 0
        if self.mixture is not None and self.weights[2]:
            numbers += self.mixture.numbers
        if self.weights == IDENTITY:
            return Correction(lambda z: z, 0, "identity", "nothing helps surely", predicted_gain=0.0)
        parts = ((self.weights[1], "network"), (self.weights[2], "Gaussian classes"))
        decision = " + ".join(name if w == 1 else f"{w:g} {name}" for w, name in parts if w)
        return Correction(self._scores, numbers, decision, predicted_gain=self.predicted_gain)

    def _scores(self, logits: Array) -> Array:
        return blend(self.weights, logits, *self._experts(logits))

    def _experts(self, logits: Array) -> tuple[Array, Array | None]:
        x = self.alignment.standardise(logits)
        corrected = log_normalised(self.alignment(logits) + self.network(x))
        return corrected, None if self.mixture is None else self.mixture.log_posterior(x)

    @classmethod
    def train(cls, data: LabelledLogits, card: Card, options: EdmnOptions) -> Self:
        """Learn from one damaged copy.

        Raises:
            CorrectorError: there is another number of copies than one, or too few usable rows.
        """
        if len(data.copies) != 1:
            raise CorrectorError(
                f"known damage means one damaged device, here are {len(data.copies)}", "--replay one fault map"
            )
        reference = Reference.measure(data.clean.double().numpy(), data.labels.numpy())
        copy = data.copies[0].logits
        usable = usable_rows(copy.double().numpy())
        finite = torch.isfinite(copy).all(dim=1).nonzero().squeeze(1).numpy()
        if len(usable) < _FEWEST:
            raise CorrectorError(
                f"the damaged device gives usable logits on {len(usable)} inputs, {_FEWEST} are needed",
                "name more labelled inputs: --train-data D; where most logits are no numbers: --format q2.5",
            )
        order = np.random.default_rng(card.seed).permutation(finite)
        kept, held = np.split(order, [round((1 - _HELD_BACK) * len(order))])
        alignment = Alignment.between(usable, reference)
        logits, labels = copy.double().numpy(), data.labels.numpy()
        x = alignment.standardise(logits)

        base = alignment(logits)
        rows = torch.from_numpy(kept)
        network = train_perceptron(
            torch.from_numpy(x[kept]).float(),
            torch.from_numpy(base[kept]).float(),
            data.clean[rows],
            data.labels[rows],
            known_damage_options(options),
            card.seed,
        )
        mixture = None
        if reference.classes <= MOST_CLASSES and len(np.unique(labels[kept])) == reference.classes:
            mixture = supervised_mixture(x[kept], labels[kept], reference.prior)
        draft = cls(alignment, network, mixture, IDENTITY, 0.0, card=card)
        weights, gain = draft._choose(logits[held], labels[held])
        return cls(alignment, network, mixture, weights, gain, card=card)

    def _choose(self, logits: Array, labels: NDArray[np.int64]) -> tuple[Blend, float]:
        experts = self._experts(logits)
        before = logits.argmax(axis=1) == labels
        best, best_gain = IDENTITY, 0.0
        for weights in _BLENDS[1:]:
            if weights[2] and experts[1] is None:
                continue
            change = (blend(weights, logits, *experts).argmax(axis=1) == labels).astype(float) - before
            if change.mean() > max(best_gain, float(change.std()) / np.sqrt(len(change))):
                best, best_gain = weights, float(change.mean())
        return best, best_gain

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        a, arrays = self.alignment, self.network.arrays()
        arrays |= {"align.mean": a.mean, "align.spread": a.spread}
        arrays |= {"align.clean_mean": a.clean_mean, "align.clean_spread": a.clean_spread}
        if self.mixture is not None:
            m = self.mixture
            arrays |= {"mixture.means": m.means, "mixture.factors": m.factors, "mixture.offsets": m.offsets}
        return arrays, {"weights": list(self.weights), "predicted_gain": self.predicted_gain}

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        k = card.classes
        names = ("mean", "spread", "clean_mean", "clean_spread")
        alignment = Alignment(*(array(arrays, f"align.{name}", k, positive=name == "spread") for name in names))
        mixture = None
        if any(name.startswith("mixture.") for name in arrays):
            mixture = ClassMixture(
                array(arrays, "mixture.means", k, k),
                array(arrays, "mixture.factors", k, k, k),
                array(arrays, "mixture.offsets", k),
            )
        raw, network, gaussian = (number({"weights": weight}, "weights") for weight in values["weights"])
        if gaussian and mixture is None:
            raise ValueError("it blends in Gaussian classes and has none")
        gain = number(values, "predicted_gain")
        return cls(alignment, Perceptron.from_arrays(arrays), mixture, (raw, network, gaussian), gain, card=card)


def supervised_mixture(x: Array, labels: NDArray[np.int64], prior: Array) -> ClassMixture:
    """Return one Gaussian per class from labelled rows; every class has to occur."""
    return ClassMixture.of(*Rows(x).maximise(np.eye(len(prior))[:, labels]), prior)
