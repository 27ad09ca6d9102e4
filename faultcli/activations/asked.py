"""What can be asked of outputs of layers: their formats, laws and protections."""

from __future__ import annotations

from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.laws import AnyFlips, BitFlip
from faultcli.faults.one_bit import BY_STRATA
from faultcli.faults.selection import Selection
from faultcli.formats import NumberFormat, ScaledFormat, parse_format
from faultcli.protect.chain import UNPROTECTED, Chain


def check_asked(selection: Selection, format: str, law: FaultLaw, chain: Chain) -> None:
    """Refuse what makes no sense where outputs of layers are at risk; do nothing where they are not.

    Raises:
        UsageError: a format without one scale per layer at the most, a law other than bit flips at a rate, protections
            where no tensor is at risk.
    """
    if selection.layers is None:
        return
    check_memory(selection, format, chain)
    if isinstance(law, (AnyFlips, *BY_STRATA)):
        selection.check_tensors("this command")
    if not isinstance(law, BitFlip):
        raise UsageError(
            f"--target {selection.target}: outputs of layers take bit flips at a rate, and no {law.spec}",
            "name a rate: --ber 1e-6",
        )


def check_memory(selection: Selection, format: str, chain: Chain) -> None:
    """Refuse memories that outputs of layers at risk cannot lie in; do nothing where they are not.

    Raises:
        UsageError: see `check_asked`.
    """
    if selection.layers is None:
        return
    target = f"--target {selection.target}"
    if format != "native":
        check_format(format, target)
    if selection.of_tensors is None and chain != UNPROTECTED:
        raise UsageError(
            f"--protect {chain.text}: protects tensors in a memory, and {target} has none at risk; outputs of layers"
            " are written anew by every inference",
            f"leave it out, or put weights at risk as well: --target weights,{selection.target}",
        )


def has_scale(format: str) -> bool:
    """Whether outputs of a layer share a scale in this format."""
    return format != "native" and isinstance(parse_format(format), ScaledFormat)


def check_format(format: str, target: str) -> NumberFormat:
    """Return the format of this name, if outputs of layers can be stored in it.

    Raises:
        UsageError: it has scales that depend on the values themselves.
    """
    found = parse_format(format)
    if isinstance(found, ScaledFormat) and (found.at_risk or found.per_row or found.group is not None):
        raise UsageError(
            f"--format {format}: {target} takes formats with one scale per layer, or none",
            "try: --format int8, fp16, bf16, fp8-e4m3 or q2.5",
        )
    return found
