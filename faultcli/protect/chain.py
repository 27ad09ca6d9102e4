"""Chains of protections: read from the command line, and checked for links that do not go together."""

from __future__ import annotations

from dataclasses import dataclass

from faultcli.errors import UsageError, unknown_name
from faultcli.formats import NumberFormat
from faultcli.protect.base import Protection
from faultcli.protect.checks import Parity, Secded, Tmr
from faultcli.protect.embedded import Cep, Mset
from faultcli.protect.guard import Guard
from faultcli.protect.inplace import InPlace
from faultcli.protect.posterior import Posterior
from faultcli.protect.scale import Scale

SCALE_OVERHEAD = "16 bits per tensor or channel (32 for a given or a model's factor)"
SCALE_SUMMARY = "keeps one factor per model, tensor or channel; divides every error by it; nothing else stored"

PROTECTIONS: dict[str, type[Protection]] = {
    link.name: link for link in (Guard, Posterior, Mset, Cep, InPlace, Parity, Secded, Tmr)
}


@dataclass(frozen=True)
class Chain:
    """What is done to every tensor on its way into the memory, in order, and undone on its way out."""

    scale: Scale | None = None
    links: tuple[Protection, ...] = ()

    @property
    def text(self) -> str:
        """The chain as it is written on the command line; equal chains have equal texts."""
        texts = [self.scale.text] if self.scale else []
        return ",".join([*texts, *(link.text for link in self.links)]) or "none"

    @property
    def needs_ber(self) -> bool:
        """Whether what is stored or read depends on the bit-error rate of the arm."""
        return (self.scale is not None and self.scale.factor == "auto") or any(link.needs_ber for link in self.links)

    def spare_bits(self, format: NumberFormat) -> int:
        """Lowest bits of a word that do not hold the value any more."""
        return sum(link.spare_bits(format) for link in self.links)


UNPROTECTED = Chain()


def parse_chain(text: str) -> Chain:
    """Read a chain such as `scale=max,guard,secded=64`, or `none`.

    Raises:
        UsageError: a link is unknown or malformed, comes twice, or stands before one that has to come first.
    """
    if text == "none":
        return UNPROTECTED
    scale: Scale | None = None
    links: list[Protection] = []
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name == "scale":
            if scale is not None or links:
                raise UsageError(f"{text}: scale comes once, and first", f"try: {part},{_without(text, part)}")
            scale = Scale.parse(value if equals else None)
            continue
        if name == "none":
            others = [part.strip() for part in text.split(",") if part.strip() != "none"]
            spelled = " ".join(f"--protect {other}" for other in ("none", ",".join(others)) if other)
            problem = f"{text}: none is an arm of its own, and no link of a chain"
            alone = "" if len(others) == 0 else "; where one is all there is: --protect " + ",".join(others)
            raise UsageError(problem, f"in a campaign {spelled}{alone}")
        if name not in PROTECTIONS:
            raise unknown_name("protection", name, ["scale", *PROTECTIONS])
        link = PROTECTIONS[name].parse(value if equals else None)
        for earlier in links:
            if earlier.rank >= link.rank:
                raise UsageError(f"{text}: {link.text} cannot follow {earlier.text}", _remedy(earlier, link))
        links.append(link)
    if len(links) > 1 and links[0].needs_ber:
        problem = f"{text}: posterior would believe in flips that {links[1].text} has corrected"
        raise UsageError(problem, "say which rate is left: posterior=P")
    names = [link.name for link in links]
    if "parity" in names and "inplace" in names:
        problem = f"{text}: parity would read words as 0 that inplace corrects"
        raise UsageError(problem, "leave parity out, or write secded=64 instead")
    return Chain(scale, tuple(links))


def _remedy(earlier: Protection, link: Protection) -> str:
    if earlier.rank > link.rank:
        return f"write {link.text} before {earlier.text}"
    return "choose one of the two"


def _without(text: str, part: str) -> str:
    return ",".join(other for other in text.split(",") if other != part)
