"""A corrector in a campaign: before every evaluation it looks at its window, and at labelled inputs if the device has
any, on the model as it is then."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.errors import UsageError, WorkloadError
from faultcli.recover.base import Correction, Corrector
from faultcli.recover.damaged_logits import Answering
from faultcli.recover.few_shot import FEWEST, few_shot
from faultcli.recover.file import load_corrector
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.data.tokens import TokenDataset
from faultcli.workload.language import LanguageWorkload

DEFAULT_WINDOW = 1000


@dataclass(frozen=True)
class CorrectorId:
    """What tells one corrector in a campaign from another."""

    name: str  # of its method
    window: int
    sha256: str  # of its file
    labelled: int = 0  # inputs of the device whose labels are known

    @property
    def text(self) -> str:
        """Short and unique: method, window and labelled inputs, first digits of the file's SHA-256."""
        labels = f"+{self.labelled}" if self.labelled else ""
        return f"{self.name}:{self.window}{labels}@{self.sha256[:8]}"

    @property
    def identity(self) -> list[str | int]:
        """What makes it another corrector: the arguments that it is made of."""
        return [self.name, self.window, self.sha256, *([self.labelled] if self.labelled else [])]


@dataclass(frozen=True)
class Correct(CorrectorId):
    """The option `--corrector FILE`: the corrector with what identifies it. Equal files are equal."""

    corrector: Corrector = field(compare=False, repr=False, kw_only=True)

    @classmethod
    def load(cls, path: Path, window: int = DEFAULT_WINDOW, labelled: int | None = None) -> Correct:
        """Read a corrector.

        Args:
            path: the file.
            window: unlabelled inputs that it looks at.
            labelled: further inputs, whose labels it is given; None: none.

        Raises:
            CheckpointError, CorrectorError: see `load_corrector`; or the window is smaller than the corrector takes.
            UsageError: too few labelled inputs.
        """
        check_labelled(labelled)
        corrector = load_corrector(path)
        corrector.check_window(window)
        return cls(corrector.name, window, Checkpoint.open(path).sha256(), labelled or 0, corrector=corrector)

    @classmethod
    def asked(cls, path: Path | None, window: int, labelled: int | None) -> Correct | None:
        """Read the corrector that is asked for, if one is; see `load`.

        Raises:
            UsageError: labelled inputs without one.
        """
        if path is not None:
            return cls.load(path, window, labelled)
        if labelled is not None:
            raise UsageError(f"--labelled {labelled}: there is no corrector to use them", "--corrector FILE")
        return None

    @property
    def needs_inputs(self) -> bool:
        """Whether it looks at any."""
        return self.corrector.needs_window or bool(self.labelled)

    def unfamiliar(self, format: str, protect: str, fault: str) -> str | None:
        """Say how a memory or the law of its faults is another than those of the copies that this learned from; None:
        it is not. What a corrector knows of damage is the damage of these."""
        card = self.corrector.card
        known = sorted({_law(spec) for spec in card.faults})
        if not known or (_law(fault) in known and (format, protect) == (card.format, card.protect)):
            return None
        learned, here = _where(card.format, card.protect, known), _where(format, protect, [_law(fault)])
        return f"the corrector learned from {learned}, and not from {here}: it may leave these alone, or err"


def _law(spec: str) -> str:
    """Return the name of the law of a fault specification, without its level; so many flips are flips at a rate."""
    name = spec.split(":", maxsplit=1)[0]
    return "bitflip" if name == "flips" else name


def _where(format: str, protect: str, laws: list[str]) -> str:
    return f"{' and '.join(laws)} in {format}" + ("" if protect == "none" else f" behind {protect}")


def check_labelled(labelled: int | None) -> None:
    """Refuse too few labelled inputs.

    Raises:
        UsageError: they are.
    """
    if labelled is not None and labelled < FEWEST:
        raise UsageError(
            f"--labelled {labelled}: too few to learn anything from", f"try: --labelled 100; {FEWEST} are the fewest"
        )


class AppliedCorrection:
    """Corrects what a workload's model answers.

    Args:
        workload: holds the model.
        unlabelled: the window is its first inputs (of a language model: tokens); they are not among those that are
            evaluated. Those behind the window are the labelled ones, if `spec` asks for any, those left out that are
            evaluated. None if none is needed.
        spec: the corrector.

    Attributes:
        labels_used: whether the labelled inputs bettered the last correction; None where there are none.

    Raises:
        WorkloadError: there are fewer inputs than that.
    """

    def __init__(self, workload: Answering, unlabelled: Dataset | TokenDataset | None, spec: Correct) -> None:
        self._spec = spec
        self.labels_used: bool | None = False if spec.labelled else None
        self._window: Answering | None = None
        self._labelled: Answering | None = None
        if isinstance(workload, LanguageWorkload):
            assert not isinstance(unlabelled, Dataset)
            self._look_at_tokens(workload, unlabelled, spec)
            return
        assert not isinstance(unlabelled, TokenDataset)
        if spec.corrector.needs_window:
            if unlabelled is None or len(unlabelled) < spec.window:
                raise _too_few(spec.window, "inputs", unlabelled, len(unlabelled or ()))
            self._window = workload.beside(unlabelled.first(spec.window))
        if spec.labelled:
            begin = spec.window if spec.corrector.needs_window else 0
            self._labelled = workload.beside(labelled_inputs(unlabelled, begin, spec.labelled, workload.dataset))

    def _look_at_tokens(self, workload: LanguageWorkload, text: TokenDataset | None, spec: Correct) -> None:
        rest = text
        if spec.corrector.needs_window:
            if text is None or text.targets < spec.window:
                raise _too_few(spec.window, "tokens", text, 0 if text is None else text.targets)
            window, rest = text.first_targets(spec.window)
            self._window = workload.beside(window)
        if spec.labelled:
            self._labelled = workload.beside(known_tokens(rest, spec.labelled, workload.tokens))

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the logits [N, K] of the model as it is now, corrected."""
        self._spec.corrector.check_classes(logits)
        return self.correction()(logits)

    def correction(self) -> Correction:
        """Return the correction for the model as it is now. Labelled inputs of which too few have finite logits are not
        used."""
        window = None if self._window is None else self._window.logits()
        if self._labelled is not None:
            self.labels_used = False
            logits = self._labelled.logits()
            if int(torch.isfinite(logits).all(dim=1).sum()) >= FEWEST:
                found = few_shot(self._spec.corrector, window, logits, self._labelled.labels)
                self.labels_used = bool(found.labels)
                return found
        return self._spec.corrector.observe(window)


def labelled_inputs(inputs: Dataset | None, begin: int, count: int, evaluated: Dataset) -> Dataset:
    """Return the first `count` inputs from position `begin` on that are not among those that are evaluated.

    Raises:
        WorkloadError: there are fewer.
    """
    found: list[int] = []
    if inputs is not None:
        scored = set(_contents(evaluated, range(len(evaluated))))
        fresh = (at for at, one in enumerate(_contents(inputs, range(begin, len(inputs))), begin) if one not in scored)
        found = list(islice(fresh, count))
    if inputs is None or len(found) < count:
        where = "there are none" if inputs is None else f"{inputs.name} has {len(found)} behind the window of {begin}"
        raise WorkloadError(
            f"--labelled {count}: {where} that are not evaluated",
            "name more with --unlabelled D, or ask for fewer",
        )
    return inputs.rows(torch.tensor(found))


def known_tokens(text: TokenDataset | None, count: int, evaluated: TokenDataset) -> TokenDataset:
    """Return the first sequences with `count` tokens to predict that are not among those that are evaluated.

    Raises:
        WorkloadError: there are fewer.
    """
    found = 0
    if text is not None:
        scored = {_sequence(evaluated, row) for row in range(len(evaluated))}
        fresh = [row for row in range(len(text)) if _sequence(text, row) not in scored]
        if fresh:
            known = text.rows(torch.tensor(fresh))
            found = known.targets
            if found >= count:
                return known.first_targets(count)[0]
    raise WorkloadError(
        f"--labelled {count}: there are {found} tokens in sequences behind the window that are not evaluated",
        "name more text with --unlabelled D, or ask for fewer",
    )


def _sequence(tokens: TokenDataset, row: int) -> tuple[int, ...]:
    return tuple(tokens.ids[row, : int(tokens.lengths[row])].tolist())


def _too_few(window: int, what: str, found: Dataset | TokenDataset | None, count: int) -> WorkloadError:
    there = "none" if found is None else f"{found.name} with {count}"
    return WorkloadError(
        f"the corrector looks at {window} unlabelled {what}; there is {there}",
        "name more with --unlabelled D, or a smaller --window",
    )


def _contents(data: Dataset, rows: Iterable[int]) -> Iterator[bytes]:
    """Yield a hash of every input, whatever its label."""
    tensors = [data.inputs, *(data.others[name] for name in sorted(data.others))]
    for row in rows:
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor[row].reshape(-1).contiguous().view(torch.uint8).numpy().data)
        yield digest.digest()
