"""The options of commands, in groups: what belongs together is one value, and is said once.

A field's name is the option's; commands take a group as one parameter (`grouping.grouped`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.places import KEEPS, READS
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.campaign.subject import Opening
    from faultcli.checkpoint import Checkpoint
    from faultcli.faults.law import FaultLaw
    from faultcli.recover.applied import Correct


@dataclass(frozen=True)
class Faults:
    """What is injected."""

    bers: options.Bers = None
    fault: options.Faults = None
    seed: options.Seed = 0


@dataclass(frozen=True)
class OneFault:
    """One fault law."""

    ber: options.Ber = None
    fault: options.Fault = None

    def law(self, *, quiet: bool) -> FaultLaw:
        """Return the law that --ber or --fault asks for, and say where a memory's rate comes from."""
        from faultcli.faults.laws import parse_law

        if (self.ber is None) == (self.fault is None):
            problem = "no fault to inject" if self.ber is None else "--ber and --fault are two ways to say the same"
            raise UsageError(problem, "name one: --ber 1e-4, or --fault SPEC")
        return parse_law(self.fault) if self.fault is not None else options.explained_rate(str(self.ber), quiet).law


@dataclass(frozen=True)
class AtRisk:
    """Which tensors lie in the memory."""

    target: options.Target = "weights"
    include: options.Include = None
    exclude: options.Exclude = None

    def names(self, checkpoint: Checkpoint) -> list[str]:
        """Return which tensors of a checkpoint these are."""
        from faultcli.faults.selection import select

        globs = {"include": self.include or (), "exclude": self.exclude or ()}
        return select(checkpoint.tensors.values(), target=self.target, **globs)


@dataclass(frozen=True)
class OneMemory:
    """How tensors are stored, in one way."""

    format: options.Format = "native"
    protect: options.Protect = "none"


@dataclass(frozen=True)
class Correcting:
    """What corrects logits, and what it looks at."""

    corrector: options.Corrector = None
    window: options.Window = 1000
    unlabelled: options.Unlabelled = None

    def load(self) -> Correct | None:
        """Return the corrector that is asked for."""
        from faultcli.recover.applied import Correct

        return None if self.corrector is None else Correct.load(self.corrector, self.window)


@dataclass(frozen=True)
class Hardening(Correcting):
    """How tensors are stored, in several ways that multiply into arms, and what is done about faults."""

    format: options.Formats = "native"
    protect: options.Protects = None
    recalibrate: options.Recalibrations = None


@dataclass(frozen=True)
class Opened:
    """What runs on what."""

    data: options.Data = None
    arch: options.Arch = None
    limit: options.Limit = None
    batch_size: options.BatchSize = None
    device: options.Device = "auto"
    mean: options.Mean = None
    std: options.Std = None

    def opening(self, at_risk: AtRisk) -> Opening:
        """Return how a checkpoint is opened, as `Subject.open` takes it."""
        return {
            "arch": self.arch,
            "limit": self.limit,
            "batch_size": self.batch_size,
            "device": self.device,
            "mean": options.numbers("--mean", self.mean),
            "std": options.numbers("--std", self.std),
            "target": at_risk.target,
            "include": at_risk.include or (),
            "exclude": at_risk.exclude or (),
        }


@dataclass(frozen=True)
class Judged(Opened):
    """What runs on what, and what of its answers counts."""

    score: options.Score = None
    answer: options.Answer = None

    def opening(self, at_risk: AtRisk) -> Opening:
        """Return how a checkpoint is opened, as `Subject.open` takes it."""
        return {**super().opening(at_risk), "score": self.score, "answer": self.answer}


@dataclass(frozen=True)
class Stopping:
    """How many trials there are."""

    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Fault maps per arm, at the most.",
            rich_help_panel=options.STOPPING,
            show_default="30; 1000 with a gate or --until-ci",
        ),
    ] = None
    until_ci: Annotated[
        float | None,
        typer.Option(
            metavar="W",
            help="Stop when the accuracy is known to ± W (a fraction, 0.01 is a point).",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Start no trial later than this, shared out evenly over the arms.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    confidence: Annotated[
        float, typer.Option(metavar="C", help="Confidence of the intervals.", rich_help_panel=options.OUTPUT)
    ] = 0.95


@dataclass(frozen=True)
class Gates(Stopping):
    """What the verdict asks for, and with it when there are enough trials."""

    min_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="Gate: mean accuracy of at least A (a fraction).",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="Gate: mean accuracy at most D (a fraction) below that as stored.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    max_drop_from_original: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="Gate: mean accuracy at most D below the original's, so that what the format costs counts, too.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    max_sdc: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Gate: at most S (a fraction) of the answers silently corrupted.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    max_perplexity: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Gate: a language model's perplexity, harmonic mean over fault maps, of at most P.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEMAND",
            help="Gate on a score, 'mAP>=0.4', or on accuracy, drop, sdc, perplexity. Repeatable.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    bounds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]LOW:HIGH",
            help="What scores lie between, which a gate on one has to know. Repeatable.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Let --max-drop compare with this --json of another checkpoint instead, on the same fault maps.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
        READS,
    ] = None


@dataclass(frozen=True)
class Running:
    """Who runs the trials, and where they are kept."""

    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep every trial in this file; the same command goes on from there.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
        KEEPS,
    ] = None
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", help="Processes that run trials; the results are the same.", rich_help_panel=options.RUNNING
        ),
    ] = 1
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR|local",
            help="Run trials on a Ray cluster; --workers says on how many of its CPUs.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Threads that compute, per process. Part of the plan: floating-point results depend on it.",
            rich_help_panel=options.RUNNING,
            show_default="all cores; 1 with --workers, --ray or --shard",
        ),
    ] = None
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only",
            metavar="",
            help="Run no trial: show arms, bits at risk, expected flips, time.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
    ] = False


@dataclass(frozen=True)
class InParts(Running):
    """As `Running`, for trials that do not depend on each other."""

    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Run part I of N of the trials, to be joined by `merge`. It decides no gate.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class Output:
    """What is printed."""

    json: options.Json = None
    quiet: options.Quiet = False


@dataclass(frozen=True)
class Configured(Output):
    """What is printed, and a file that says what options say."""

    config: options.Config = None
