"""What figures of safety mean, by which definitions, and what they leave out: the words beside the numbers."""

from __future__ import annotations

from faultcli.campaign.safety import MEGABIT, FaultClass, SafetyFigures, SafetyResult
from faultcli.report.numbers import percent
from faultcli.report.text import counted

MEANINGS = {
    FaultClass.SDC: "an answer is another one, and nothing says so",
    FaultClass.DUE: "an answer is not finite, none is another one, and no protection says so",
    FaultClass.DETECTED: "a protection finds words that it cannot correct, whatever the answers are",
    FaultClass.CORRECTED: "a protection takes the flip back; all answers are as before",
    FaultClass.MASKED: "nothing is noticed; all answers are as before",
}

# Term, what is computed, where the term is defined.
DEFINITIONS = (
    (
        "FIT of a class",
        "bits / 2²⁰ × FIT per Mbit × share of the class among the faults",
        "base failure rate: ISO 26262-11:2018, 4.6",
    ),
    (
        "safe",
        "share of faults that are masked; a corrected fault is not counted as safe, as it may do harm without the "
        "protection",
        "safe fault: ISO 26262-1:2018, 3.130. Under IEC 61508-4:2010 most of them are “no effect” failures",
    ),
    (
        "not dangerous",
        "1 − (SDC + DUE) / all. Of this memory alone it is the term that a single-point fault metric sums",
        "ISO 26262-5:2018, Annex C. The metric is of an item, with all of its hardware; it is not computed here",
    ),
    (
        "coverage",
        "1 − λ/λ₀: λ is bits × share of SDC and DUE of the arm, λ₀ that of the same format without protection. Check "
        "bits count against it: they are hit, too. Faults that are made harmless without a signal count as controlled",
        "diagnostic coverage: ISO 26262-1:2018, 3.33, what is detected or controlled. IEC 61508-2:2010, Annex C, "
        "counts what diagnostic tests detect: of that, only detected faults and corrections that are reported",
    ),
    (
        "safe failure fraction",
        "not computed: “no effect” failures are no part of it, and no trial tells them from safe ones",
        "IEC 61508-2:2010, Annex C, and IEC 61508-4:2010",
    ),
)


def assumptions(result: SafetyResult) -> list[tuple[str, str]]:
    """Return what the figures take for granted: name and text each."""
    campaign, rates = result.campaign, result.rates
    side = any(figures.result.overhead_bits_per_weight for figures in result.arms)
    chosen = [campaign.plan.target, *(f"--include {glob}" for glob in campaign.plan.include)]
    chosen += [f"--exclude {glob}" for glob in campaign.plan.exclude]
    found = [
        (
            "Failure rate",
            f"{rates.fit_per_mbit:g} FIT per Mbit of {MEGABIT:,} bits, as given and taken as exact. 1 FIT is one "
            "failure in 10⁹ hours. Flux, altitude, voltage, temperature and derating are in this number or nowhere.",
        ),
        (
            "Faults",
            "One stored bit flips, each with the same probability, and stays wrong for all inputs of a trial. Left "
            "out: upsets of several bits, faults that add up until the memory is written again, bits that are stuck, "
            "and flips whose direction depends on what is stored.",
        ),
        (
            "Memory",
            f"The selected tensors ({' '.join(chosen)}), their scales where the format stores them, and check bits. "
            "Left out: other tensors, the program, activations, logic, the decoders of the protections"
            f"{', and their constants that lie beside the memory' if side else ''}.",
        ),
        (
            "Answers",
            f"A fault is of the worst class that any of {counted(campaign.inputs, 'input')} shows; on more inputs more "
            "faults show. An answer is wrong that differs from the one without faults: whether that violates a safety "
            "goal, the model's user has to say.",
        ),
        (
            "Detection",
            "Counts if the system looks at what the protection reports and comes to a safe state in time (ISO 26262-1: "
            "fault handling time interval). Guards, scaling and estimates change what is read and report nothing. DUE "
            "counts as dangerous, as nobody has to look whether answers are finite.",
        ),
        (
            "Confidence",
            f"Every bound is one-sided at {percent(rates.confidence, 0)} % by itself, not all of them together: "
            "Clopper and Pearson for shares; for a coverage the bounds of both rates, each at half of the error rate. "
            "The number of trials was fixed beforehand. What no trial showed has a bound and no value.",
        ),
    ]
    missing = [figures for figures in result.arms if figures.result.failures]
    if missing:
        count = sum(len(figures.result.failures) for figures in missing)
        found.append(("Trials that could not be run", f"{count:,}, counted as SDC."))
    waiting = sum(figures.result.outstanding for figures in result.arms)
    if waiting:
        found.append(("Trials to come", f"{waiting:,} of those asked for have not been run."))
    if result.left_out:
        found.append(("Arms without figures", "; ".join(result.left_out)))
    found.append(
        (
            "Compliance",
            "None is claimed. The figures use the standards' definitions so that they fit into an analysis; the "
            "analysis, its evidence and its confirmation are others' work.",
        )
    )
    return found


def arm_line(figures: SafetyFigures) -> str:
    """Say what an arm's figures follow from."""
    bits, total = figures.result.bits, figures.total_fit
    return (
        f"{counted(figures.trials, 'fault')} of {bits:,} bits ({bits / MEGABIT:.4g} Mbit): {total:.4g} FIT in all, "
        "whatever becomes of them."
    )
