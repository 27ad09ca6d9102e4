"""faultcli campaign: many trials, one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faultcli.cli import options
from faultcli.cli.console import note
from faultcli.cli.grouping import grouped
from faultcli.cli.groups import AtRisk, Configured, Faults, Gates, Hardening, InParts, Judged

if TYPE_CHECKING:
    from faultcli.campaign.baseline import Baseline
    from faultcli.campaign.gates import Gate
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.memories import Rate

RARE = (
    *("target", "include", "exclude", "window", "unlabelled", "batch_size", "device", "mean", "std", "answer"),
    *("max_drop_from_original", "max_perplexity", "bounds", "baseline"),
    *("ray", "shard", "threads", "confidence", "budget"),
)


@grouped(rare=RARE)
def campaign(
    faults: Faults,
    opened: Judged,
    hardening: Hardening,
    at_risk: AtRisk,
    gates: Gates,
    running: InParts,
    output: Configured,
    model: options.OptionalModel = None,
) -> None:
    """Inject many fault maps and measure what they do to the model's answers.

    Lists of formats, levels and protections multiply into arms, paired on the same faults.

    Example: faultcli campaign --ber 1e-5,1e-4 --format fp16,q2.5
    """
    from faultcli.api import default_trials
    from faultcli.campaign.plan import Plan
    from faultcli.campaign.shard import parse_shard
    from faultcli.cli.conduct import Conduct, arms_of

    older = _baseline(gates)
    demands, bounds = _demands(gates), options.bounds_of(gates.bounds)
    rates = options.rates(faults.bers, quiet=output.quiet)
    laws = _laws(rates, faults.fault or [], quiet=output.quiet)
    correct = hardening.load()
    arms = arms_of(hardening, laws, correct)
    trials = gates.trials
    if trials is None:
        usual = default_trials(laws, sequential=bool(demands) or gates.until_ci is not None)
        trials = older.trials(arms) if older else usual
    plan = Plan(
        arms,
        trials,
        faults.seed,
        at_risk.target,
        tuple(at_risk.include or ()),
        tuple(at_risk.exclude or ()),
        demands,
        gates.until_ci,
        gates.confidence,
        bounds=tuple((name, low, high) for name, (low, high) in bounds.items()),
    )
    part = parse_shard(running.shard) if running.shard else None
    conduct = Conduct(model, opened, at_risk, running, output, part)
    conduct.run(plan, hardening, correct, gates, rates=rates, older=older)


def _baseline(gates: Gates) -> Baseline | None:
    from faultcli.campaign.baseline import Baseline
    from faultcli.errors import UsageError

    if gates.baseline is None:
        return None
    if gates.max_drop is None:
        raise UsageError("--baseline needs to know how much worse is too much", "try: --max-drop 0.01, a point")
    return Baseline(gates.baseline)


def _demands(gates: Gates) -> tuple[Gate, ...]:
    from faultcli.campaign.gates import Gate, parse_gate

    named = {
        "min-accuracy": gates.min_accuracy,
        "max-sdc": gates.max_sdc,
        "max-perplexity": gates.max_perplexity,
        "max-drop" if gates.baseline is None else "max-drop-from-baseline": gates.max_drop,
        "max-drop-from-original": gates.max_drop_from_original,
    }
    bounds = options.bounds_of(gates.bounds)
    asked = (Gate(name, threshold) for name, threshold in named.items() if threshold is not None)
    return (*asked, *(parse_gate(text, bounds) for text in gates.gate or []))


def _laws(rates: list[Rate], faults: list[str], *, quiet: bool) -> list[FaultLaw]:
    from faultcli.faults.laws import parse_law

    specs = [*(rate.law.spec for rate in rates), *faults]
    laws = [*(rate.law for rate in rates), *map(parse_law, faults)]
    for spec, law in zip(specs, laws, strict=True):
        if law.repeats:
            note(f"{spec}: has the same faults in every trial, so there is one trial", quiet=quiet)
    return laws
