"""The table of correctors, and training any of them from the same logits."""

from __future__ import annotations

from dataclasses import dataclass, field

from faultcli.errors import unknown_name
from faultcli.recover.adaptive.corrector import Adaptive, learn_law
from faultcli.recover.align import SMALLEST_WINDOW, Align
from faultcli.recover.base import Card, Corrector, CorrectorError
from faultcli.recover.damaged_logits import LabelledLogits
from faultcli.recover.edmn import Edmn, EdmnOptions
from faultcli.recover.known_damage import KnownDamageCorrector
from faultcli.recover.language import LanguageCorrector
from faultcli.recover.many_classes import ManyClasses
from faultcli.recover.mixture.corrector import Mixture
from faultcli.recover.reference import MOST_CLASSES, Reference
from faultcli.recover.threads import one_numpy_thread

METHODS: dict[str, type[Corrector]] = {
    method.name: method for method in (Edmn, Align, Mixture, Adaptive, ManyClasses, LanguageCorrector)
}
DEFAULT_WINDOW = 1000


@dataclass(frozen=True)
class TrainingOptions:
    """How correctors are trained. `window`: unlabelled inputs that the device will look at; adaptive learns for it."""

    window: int = DEFAULT_WINDOW
    edmn: EdmnOptions = field(default_factory=EdmnOptions)


def kind_of(method: str, setting: str) -> type[Corrector]:
    """Return the class that a method is in a setting.

    Raises:
        UsageError: no such method.
    """
    if method not in METHODS:
        raise unknown_name("correction method", method, METHODS)
    return KnownDamageCorrector if (method, setting) == ("adaptive", "known damage") else METHODS[method]


def smallest_window(kind: type[Corrector]) -> int:
    """Return how many inputs a window has at the least that a kind of corrector is trained for, whatever the classes; 0
    for one that looks at none, or has a word of its own about it."""
    return SMALLEST_WINDOW if kind in (Adaptive, Align, ManyClasses, Mixture) else 0


@one_numpy_thread()
def train_corrector(method: str, data: LabelledLogits, card: Card, options: TrainingOptions | None = None) -> Corrector:
    """Train a corrector. The same arguments give the same corrector.

    Args:
        method: a name of `METHODS`.
        data: clean logits, labels, and the logits of damaged copies: of other fault maps than those it will meet
            (unseen damage), or of the damaged device itself, one copy (known damage).
        card: what it is trained for; its seed is that of the training, too.
        options: see there.

    Raises:
        UsageError: no such method.
        CorrectorError: the data does not suffice.
    """
    kind = kind_of(method, card.setting)
    options = options or TrainingOptions()
    if data.classes != card.classes:
        raise CorrectorError(f"the logits have {data.classes} classes, the corrector is to have {card.classes}")
    if kind is Edmn:
        return Edmn.train(data, card, options.edmn)
    if kind is LanguageCorrector:
        return LanguageCorrector.train(data, card, options.window)
    if kind is KnownDamageCorrector:
        return KnownDamageCorrector.train(data, card, options.edmn)
    if kind is ManyClasses or (kind is Adaptive and data.classes > MOST_CLASSES):
        return ManyClasses.train(data, card, options.window)
    if kind is Adaptive:
        return Adaptive.train(data, card, options.window, card.seed)
    reference = Reference.measure(data.clean.double().numpy(), data.labels.numpy())
    if kind is Align:
        return Align(reference, card=card)
    law = learn_law(data, reference)
    if law is None:
        raise CorrectorError(
            f"a mixture of {data.classes} classes cannot be fitted to a window", "--method align or adaptive"
        )
    return Mixture(reference, law, card=card)
