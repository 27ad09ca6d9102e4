"""Chains of protections: read from the command line, and checked for links that do not go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from faultcli.checkpoint.packed import ROLES
from faultcli.errors import UsageError, unknown_name
from faultcli.formats import NumberFormat, parse_format
from faultcli.protect.base import Protection
from faultcli.protect.checks import Parity, Secded, Tmr
from faultcli.protect.embedded import Cep, Mset
from faultcli.protect.guard import Guard
from faultcli.protect.inplace import InPlace
from faultcli.protect.ldpc import Ldpc
from faultcli.protect.posterior import Posterior
from faultcli.protect.scale import Scale

PROTECTIONS: dict[str, type[Protection]] = {
    link.name: link for link in (Scale, Guard, Posterior, Mset, Cep, InPlace, Ldpc, Parity, Secded, Tmr)
}


@dataclass(frozen=True)
class Chain:
    """What is done to every tensor on its way into the memory, in order, and undone on its way out."""

    links: tuple[Protection, ...] = ()
    roles: tuple[tuple[str, Protection], ...] = ()  # parts of quantised weights, each with its own; then no `links`

    @property
    def text(self) -> str:
        """The chain as it is written on the command line; equal chains have equal texts."""
        own = (f"{role}:{link.text}" for role, link in self.roles)
        return ",".join([*own, *(link.text for link in self.links)]) or "none"

    def for_role(self, role: str | None) -> tuple[Protection, ...]:
        """Return the links of the parts of quantised weights that have this role; none if others are named. None: of a
        tensor that is no such part."""
        return tuple(link for own, link in self.roles if own == role) if self.roles else self.links

    @property
    def needs_ber(self) -> bool:
        """Whether what is stored or read depends on the bit-error rate of the arm."""
        return any(link.needs_ber for link in self.links)

    def doubts(self, format: NumberFormat) -> list[str]:
        """Return what may go wrong with links in a format, a sentence each."""
        names = {link.name for link in self.links}
        found = [link.doubt(format, names - {link.name}) for link in self.links]
        return [doubt for doubt in found if doubt is not None]

    def check_plain(self) -> None:
        """Refuse a chain for parts of quantised weights where there are none.

        Raises:
            UsageError: it is one.
        """
        if self.roles:
            roles = ", ".join(role for role, _ in self.roles)
            problem = f"{self.text}: these weights are not quantised in the file, and have no {roles} of their own"
            raise UsageError(problem, f"protect whole tensors: --protect {self.roles[0][1].text}")

    def for_tensors(
        self, tensors: Mapping[str, Tensor], format_of: Callable[[str], NumberFormat], ber: float | None
    ) -> dict[str, tuple[Protection, ...]]:
        """Return the links of every tensor, see `Protection.for_tensors`.

        Raises:
            UsageError: the chain is for parts of quantised weights.
        """
        self.check_plain()
        links = [
            link.for_tensors(tensors, format_of, self.links[place:], ber)
            for place, link in enumerate(self.links, start=1)
        ]
        return {name: tuple(of[name] for of in links) for name in tensors}


UNPROTECTED = Chain()


def by_row(format_name: str, chain: Chain = UNPROTECTED) -> bool:
    """Whether a memory of this format, behind these protections, has something for every output channel.

    Raises:
        UsageError: there is no such format.
    """
    own = format_name != "native" and parse_format(format_name).by_row
    return own or any(link.by_row for link in chain.links)


def parse_chain(text: str) -> Chain:
    """Read a chain such as `scale=max,guard,secded=64`, or `none`; or one that names parts of quantised weights, such
    as `scales:tmr,codes:parity`, which leaves the others unprotected.

    Raises:
        UsageError: a link is unknown or malformed, comes twice, stands before one that has to come first, or does not
            go with another one; a part is unknown, comes twice, or is given something else than check words.
    """
    if text == "none":
        return UNPROTECTED
    if any(_role_of(part) is not None for part in text.split(",")):
        return _parse_roles(text)
    links: list[Protection] = []
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name == "none":
            others = [part.strip() for part in text.split(",") if part.strip() != "none"]
            spelled = " ".join(f"--protect {other}" for other in ("none", ",".join(others)) if other)
            problem = f"{text}: none is an arm of its own, and no link of a chain"
            alone = "" if len(others) == 0 else "; where one is all there is: --protect " + ",".join(others)
            raise UsageError(problem, f"in a campaign {spelled}{alone}")
        if name not in PROTECTIONS:
            raise unknown_name("protection", name, PROTECTIONS)
        link = PROTECTIONS[name].parse(value if equals else None)
        for earlier in links:
            if earlier.rank >= link.rank:
                first = link.rank == Protection.VALUE
                problem = f"{name} comes once, and first" if first else f"{link.text} cannot follow {earlier.text}"
                raise UsageError(f"{text}: {problem}", _remedy(earlier, link))
        links.append(link)
    for link in links:
        for other in links:
            if (conflict := link.conflict(other)) is not None:
                raise UsageError(f"{text}: {conflict[0]}", conflict[1])
    return Chain(tuple(links))


def _role_of(part: str) -> str | None:
    """Return what stands before the colon of `scales:tmr`; None in `tmr=msb:2`."""
    head, colon, _ = part.strip().partition(":")
    return head if colon and "=" not in head else None


def _parse_roles(text: str) -> Chain:
    found: dict[str, Protection] = {}
    for part in text.split(","):
        role = _role_of(part)
        if role is None:
            problem = f"{text}: {part.strip()} does not say which parts of quantised weights it protects"
            raise UsageError(problem, f"write scales:{part.strip()}, or name no part at all")
        if role not in ROLES:
            raise unknown_name("part of quantised weights", role, ROLES)
        if role in found:
            raise UsageError(f"{text}: {role} comes twice", "choose one of the two")
        chain = parse_chain(part.strip().partition(":")[2])
        check_packed(chain)
        if len(chain.links) != 1:
            raise UsageError(
                f"{text}: {role} has no protection", f"leave {role} out: parts that are not named have none"
            )
        found[role] = chain.links[0]
    return Chain(roles=tuple((role, found[role]) for role in ROLES if role in found))


def check_packed(chain: Chain) -> None:
    """Refuse links that change values or words, for words that hold the codes and scales of quantised weights.

    Raises:
        UsageError: names the link.
    """
    for link in chain.links:
        if link.rank != Protection.CHECK:
            raise UsageError(
                f"{link.text}: works on numbers; the words of quantised weights are codes and scales",
                "use check words: parity, secded=64 or tmr",
            )


def _remedy(earlier: Protection, link: Protection) -> str:
    if earlier.rank > link.rank:
        return f"write {link.text} before {earlier.text}"
    return "choose one of the two"
