"""The options of `campaign` and `curve` about their trials, in groups: how many, what they decide, who runs them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from faultcli.cli.grouping import RARE
from faultcli.cli.options import Hardening, option
from faultcli.cli.options import workload as about_model
from faultcli.cli.places import KEEPS, READS
from faultcli.errors import UsageError

trials = partial(option, "Trials and gates")
running = partial(option, "Running")


SOME_INPUTS = (
    "auto|N",
    "Run N inputs per fault map, others in each, in place of all: means stay right, and more maps fit into the time."
    " auto: as many as pay most. Campaigns have 300 fault maps then, if nothing else is said.",
    "--inputs-per-trial",
)


def inputs_per_trial(text: str | None) -> int | Literal["auto"] | None:
    """Read --inputs-per-trial."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not int(text):
        raise UsageError(f"--inputs-per-trial {text}: is no number of inputs", "--inputs-per-trial auto, or 16")
    return int(text)


@dataclass(frozen=True)
class Stopping:
    """How many trials there are: of a curve."""

    trials: Annotated[int | None, trials("N", "Fault maps per arm, at the most: 300, or 5000 with --until-ci.")] = None
    until_ci: Annotated[
        float | None, trials("W", "Stop when the accuracy is known to ± W (a fraction, 0.01 is a point).")
    ] = None
    budget: Annotated[
        float | None, trials("MINUTES", "Start no trial later than this, shared out evenly over the arms.")
    ] = None
    confidence: Annotated[float, trials("C", "Confidence of the intervals.", default=True), RARE] = 0.95


@dataclass(frozen=True)
class Gates(Stopping):
    """What the verdict asks for, and with it how many trials there are."""

    trials: Annotated[
        int | None, trials("N", "Fault maps per arm, at the most: 30, 1000 with a gate or --until-ci.")
    ] = None
    min_accuracy: Annotated[float | None, trials("A", "Gate: mean accuracy A or more, a fraction.")] = None
    max_drop: Annotated[
        float | None,
        trials("D", "Gate: mean accuracy at most D below that as stored, or below the --baseline."),
    ] = None
    max_drop_from_original: Annotated[
        float | None,
        trials("D", "Gate: mean accuracy at most D below the original's, so that what the format costs counts, too."),
        RARE,
    ] = None
    baseline: Annotated[
        Path | None,
        trials("FILE", "Compare --max-drop with this --json of another checkpoint, on the same fault maps."),
        READS,
    ] = None
    max_sdc: Annotated[float | None, trials("S", "Gate: answers silently corrupted, at most S.")] = None
    max_perplexity: Annotated[
        float | None,
        trials("P", "Gate: a language model's perplexity, harmonic mean over fault maps, of at most P."),
        RARE,
    ] = None
    gate: Annotated[
        list[str] | None,
        trials(
            "DEMAND",
            "Gate on a score, 'mAP>=0.4', or on accuracy, drop, sdc, perplexity. Repeatable.",
        ),
    ] = None
    bounds: Annotated[
        list[str] | None,
        trials("[NAME=]LOW:HIGH", "What scores lie between, which a gate on one has to know. Repeatable."),
        RARE,
    ] = None

    inputs_per_trial: Annotated[str | None, trials(*SOME_INPUTS), RARE] = None

    def between(self) -> dict[str | None, tuple[float, float]]:
        """Read what scores lie between: `LOW:HIGH` for all, or `NAME=LOW:HIGH`, by name; None as a name: all others."""
        found: dict[str | None, tuple[float, float]] = {}
        for text in self.bounds or []:
            name, equals, ends = text.rpartition("=")
            try:
                low, high = map(float, ends.split(":"))
            except ValueError:
                low = high = math.nan
            if not -math.inf < low < high < math.inf:
                raise UsageError(f"--bounds {text}: is no range", "try: --bounds 0:1, or --bounds mAP=0:1")
            found[name if equals else None] = low, high
        return found


@dataclass(frozen=True)
class Guarding(Hardening):
    """As `Hardening`, and what is done about faults in what layers give."""

    guard_activations: Annotated[
        list[str] | None,
        about_model(
            "MODE",
            "Keep what layers give inside the bounds that it has on clean inputs: clip, zero, or none. Repeatable.",
            "--guard-activations",
        ),
        RARE,
    ] = None
    guard_bounds: Annotated[
        Path | None,
        about_model("FILE", "Take these bounds from a file that `evaluate --save-bounds` wrote."),
        READS,
        RARE,
    ] = None


@dataclass(frozen=True)
class Running:
    """Who runs the trials, and where they are kept."""

    store: Annotated[
        Path | None,
        running("FILE", "Keep every trial in this SQLite file; the same command continues from there."),
        KEEPS,
    ] = None
    workers: Annotated[int, running("N", "Processes, with the same results.", default=True)] = 1
    ray: Annotated[
        str | None,
        running("ADDR|local", "Run trials on a Ray cluster; --workers says on how many of its CPUs."),
        RARE,
    ] = None
    threads: Annotated[
        int | None,
        running(
            "N",
            "Threads that compute, per process. Part of the plan: floating-point results depend on it.",
            default="all cores; 1 where several processes share them",
        ),
        RARE,
    ] = None

    @property
    def several(self) -> bool:
        """Whether several processes share the machine."""
        return self.workers > 1 or self.ray is not None


@dataclass(frozen=True)
class Previewed(Running):
    """As `Running`, for trials that can be told before any of them runs."""

    plan_only: Annotated[
        bool,
        running(
            "",
            "Run no trial: show arms, bits at risk, expected flips, trials for an interval, and time.",
            "--plan-only",
        ),
    ] = False


@dataclass(frozen=True)
class InParts(Previewed):
    """As `Previewed`, for trials that do not depend on each other."""

    shard: Annotated[
        str | None, running("I/N", "Run part I of N of the trials, to be joined by `merge`. It decides no gate."), RARE
    ] = None

    @property
    def several(self) -> bool:
        """As for `Running`; parts may run beside each other."""
        return super().several or self.shard is not None
