"""The options that several commands share, one by one and in groups: each is explained once.

A group is one parameter of a command (`grouping.grouped`); its fields are named as the options are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultcli.cli.config import read_config
from faultcli.cli.console import check_json_target, note
from faultcli.cli.grouping import RARE
from faultcli.cli.places import READS, WRITES
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faultcli.campaign.subject import Opening
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.memories import Rate


def option(panel: str, metavar: str, help: str, *names: str, default: str | bool = False, **more: Any) -> Any:
    """Return an option of a panel of the help.

    Args:
        panel: its title.
        metavar: what stands for the value; empty for a flag.
        help: a sentence or two.
        names: how it is spelled if not as the parameter.
        default: what the help says of it; True: the value.
        more: as `typer.Option` takes it.
    """
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, show_default=default, **more)


faults = partial(option, "Faults")
workload = partial(option, "Model and data")
output = partial(option, "Output")

_CHECKPOINT = "Checkpoint: a .safetensors, *.index.json or .gguf file, or a directory."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=_CHECKPOINT, show_default=False), READS]
OptionalModel = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help=f"{_CHECKPOINT} Left out: the embedded demo.", show_default=False),
    READS,
]
Format = Annotated[
    str,
    faults("F", "Number format (`inspect --formats`); native, the default: each tensor's own."),
]
Target = Annotated[
    str,
    faults(
        "T",
        "At risk: weights (2-D and more), all floats, any, codes, scales, zeros, indices, all-parts, or in campaigns"
        " activations[:GLOB].",
        default=True,
    ),
]
Seed = Annotated[int, faults("N", "Same seed, same faults.", default=True)]
Config = Annotated[
    Path | None,
    output(
        "FILE.toml",
        "A TOML file of options that are not given here.",
        callback=read_config,
        is_eager=True,
    ),
    READS,
]
Quiet = Annotated[bool, output("", "No progress and no notes.", "--quiet", "-q")]
Force = Annotated[bool, output("", "Replace an output that exists.", "--force")]


def written_to(default: str) -> Any:
    """Return the option that says where to write; `default` says where to otherwise."""
    return output("OUT", "Where to write.", "--output", "-o", default=default)


_LAW = (
    "Fault law (`inspect --faults`): flips:K, stuck-at-0:P, burst:P,length=L, zero:P, gaussian:S, measured:FILE; "
    "`,bits=SPEC` and `,include=GLOB` narrow it."
)
_CHAIN = "Protections, e.g. scale=max,guard (`inspect --protections`), or a plan.toml."


@dataclass(frozen=True)
class OneFault:
    """The faults of one law."""

    ber: Annotated[
        str | None,
        faults(
            "P",
            "Bit-error rate: every stored bit flips with probability P, a number or a memory such as sram:years=5 "
            "(`inspect --memories`). Short for --fault bitflip:P.",
        ),
    ] = None
    fault: Annotated[str | None, faults("SPEC", _LAW), READS] = None

    @property
    def given(self) -> bool:
        """Whether faults are asked for."""
        return self.ber is not None or self.fault is not None

    def law(self, *, quiet: bool) -> FaultLaw:
        """Return the law that is asked for, and say where a memory's rate comes from."""
        from faultcli.faults.laws import parse_law

        if (self.ber is None) == (self.fault is None):
            problem = "--ber and --fault are two ways to say the same" if self.given else "no fault to inject"
            raise UsageError(problem, "name one: --ber 1e-4, or --fault SPEC")
        return parse_law(self.fault) if self.fault is not None else explained_rate(str(self.ber), quiet=quiet).law


@dataclass(frozen=True)
class Faults:
    """The faults of several laws."""

    bers: Annotated[
        str | None,
        faults(
            "P[,P...]",
            "Probabilities that a stored bit flips, or memories such as sram:years=5 (`inspect --memories`). Short for "
            "--fault bitflip:P.",
            "--ber",
        ),
    ] = None
    fault: Annotated[list[str] | None, faults("SPEC", f"{_LAW} Repeatable.", "--fault"), READS] = None
    seed: Seed = 0

    def rates(self, *, quiet: bool) -> list[Rate]:
        """Return the bit-error rates that --ber lists, and say where those of a memory come from."""
        from faultcli.faults.memories import split_rates

        return [explained_rate(text, quiet=quiet) for text in split_rates(self.bers)] if self.bers is not None else []

    def laws(self, rates: Sequence[Rate]) -> list[FaultLaw]:
        """Return the laws that --ber and --fault ask for, in that order."""
        from faultcli.faults.laws import parse_law

        return [*(rate.law for rate in rates), *map(parse_law, self.fault or [])]


@dataclass(frozen=True)
class AtRisk:
    """Which tensors lie in the memory."""

    target: Target = "weights"
    include: Annotated[list[str] | None, faults("GLOB", "Only tensors that match. Repeatable.")] = None
    exclude: Annotated[list[str] | None, faults("GLOB", "No tensors that match. Repeatable.")] = None

    @property
    def selection(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The target, globs of what is at risk, and globs of what is not."""
        return self.target, tuple(self.include or ()), tuple(self.exclude or ())


@dataclass(frozen=True)
class InFile(AtRisk):
    """Which tensors of a file lie in the memory, and what network reads them."""

    arch: Annotated[
        str | None,
        faults(
            "A",
            "The network (as in `evaluate`) that says which values are an output channel, where the format or a "
            "protection has something for each.",
            default="the checkpoint's",
        ),
        READS,
        RARE,
    ] = None


@dataclass(frozen=True)
class OneMemory:
    """How tensors are stored: one way."""

    format: Format = "native"
    protect: Annotated[str, faults("CHAIN", _CHAIN, default=True), READS] = "none"


@dataclass(frozen=True)
class SeveralMemories:
    """How tensors are stored: several ways."""

    format: Annotated[
        str,
        faults("F[,F...]", "Number formats (`inspect --formats`); native, the default: each tensor's own."),
    ] = "native"
    protect: Annotated[list[str] | None, faults("CHAIN", f"{_CHAIN} Repeatable.", "--protect"), READS] = None


@dataclass(frozen=True)
class Correcting:
    """What corrects answers."""

    corrector: Annotated[
        Path | None, workload("FILE", "Correct the logits with what `train-corrector` wrote."), READS
    ] = None
    window: Annotated[int, workload("N", "Unlabelled inputs that the corrector looks at.", default=True), RARE] = 1000
    labelled: Annotated[
        int | None,
        workload(
            "N",
            "The corrector gets N further inputs of the same data with their labels: a device that knows some.",
        ),
        RARE,
    ] = None
    unlabelled: Annotated[
        str | None,
        workload(
            "D",
            "Inputs for recalibration and correctors; their labels are looked at with --labelled only.",
            default="the training split of the data",
        ),
        READS,
        RARE,
    ] = None


@dataclass(frozen=True)
class Hardening(Correcting, SeveralMemories):
    """How tensors are stored, and what is done about faults."""

    recalibrate: Annotated[
        list[str] | None,
        workload(
            "bn[:N]",
            "Re-estimate batch-norm statistics on N unlabelled inputs. Repeatable.",
            "--recalibrate",
        ),
    ] = None


@dataclass(frozen=True)
class ModelAndData:
    """What runs on what."""

    data: Annotated[
        str | None,
        workload(
            "D",
            "Data: digits, mnist:DIR, cifar10:DIR, images:DIR, FILE.npz, .safetensors, .jsonl, .csv, .tsv, .txt or "
            "package.module:factory.",
            default="digits for the demo",
        ),
        READS,
    ] = None
    arch: Annotated[
        str | None,
        workload(
            "A",
            "Architecture: a NAME (`inspect --archs`), hf, torchvision:NAME, timm:NAME, FILE.pt2 or "
            "package.module:factory.",
            default="the checkpoint's",
        ),
        READS,
    ] = None
    limit: Annotated[int | None, workload("N", "Use the first N inputs only.")] = None
    batch_size: Annotated[int | None, workload("N", "Inputs per forward pass.")] = None
    device: Annotated[str, workload("DEVICE", "auto, cpu or cuda[:i].", default=True)] = "auto"
    mean: Annotated[
        str | None,
        workload(
            "M[,M...]",
            "Mean per channel that preprocessing subtracts, in units of 0 to 1.",
            default="the architecture's",
        ),
        RARE,
    ] = None
    std: Annotated[
        str | None,
        workload(
            "S[,S...]",
            "Standard deviation per channel that preprocessing divides by.",
            default="the architecture's",
        ),
        RARE,
    ] = None

    def opening(self, at_risk: AtRisk) -> Opening:
        """Return how a checkpoint is opened, as `Subject.open` takes it."""
        target, include, exclude = at_risk.selection
        return {
            "arch": self.arch,
            "limit": self.limit,
            "batch_size": self.batch_size,
            "device": self.device,
            "mean": _numbers("--mean", self.mean),
            "std": _numbers("--std", self.std),
            "target": target,
            "include": include,
            "exclude": exclude,
        }


@dataclass(frozen=True)
class Answering(ModelAndData):
    """What runs on what, and where its answers are."""

    answer: Annotated[
        str | None,
        workload(
            "NAME",
            "Where the logits are in what the model returns: a field, key or position, or package.module:function.",
            default="logits, or the first tensor",
        ),
        READS,
        RARE,
    ] = None

    def opening(self, at_risk: AtRisk) -> Opening:
        """As for `ModelAndData`."""
        return {**super().opening(at_risk), "answer": self.answer}


@dataclass(frozen=True)
class Judged(Answering):
    """What runs on what, and what its answers are judged by."""

    score: Annotated[
        str | None,
        workload(
            "M:FUNCTION",
            "In place of --data, judge the model by package.module:function, called with it.",
        ),
        READS,
    ] = None

    def opening(self, at_risk: AtRisk) -> Opening:
        """As for `ModelAndData`."""
        return {**super().opening(at_risk), "score": self.score}


@dataclass(frozen=True)
class Shown:
    """What is printed."""

    json: Annotated[
        str | None,
        output(
            "[FILE|-]",
            "Write the result as one JSON object; without FILE, or with -, alone to stdout.",
            "--json",
            callback=check_json_target,
        ),
        WRITES,
    ] = None
    quiet: Quiet = False


@dataclass(frozen=True)
class Configured(Shown):
    """What is printed, and a file that says what options say."""

    config: Config = None


@dataclass(frozen=True)
class Overwriting(Shown):
    """What is printed, and what is replaced."""

    force: Force = False


def explained_rate(text: str, *, quiet: bool) -> Rate:
    """Return the one rate that --ber names, and say where it comes from if it is a memory's."""
    from faultcli.faults.memories import parse_rate

    rate = parse_rate(text)
    if rate.explanation is not None:
        note(rate.explanation, quiet=quiet)
    return rate


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read a comma-separated list of numbers."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        problem = f"{option} {text}: is not a number, or a list of numbers with commas"
        raise UsageError(problem, f"{option} 0.5, or one number per channel") from None
