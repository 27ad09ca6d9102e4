"""Chains of protections: read from the command line, and checked for links that do not go together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from faultcli.checkpoint.packed import ROLES
from faultcli.errors import UsageError, unknown_name
from faultcli.foreign import ForeignError, parse_json
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


Links = tuple[Protection, ...]


@dataclass(frozen=True)
class Chain:
    """What is done to every tensor on its way into the memory, in order, and undone on its way out.

    `links`: of all tensors, or of those that no rule takes. `roles`: parts of quantised weights, each with its own;
    then no `links`. `rules`: globs of tensors' names, each with its own links; the first one that matches counts.
    """

    links: Links = ()
    roles: tuple[tuple[str, Protection], ...] = ()
    rules: tuple[tuple[str, Links], ...] = ()

    @property
    def text(self) -> str:
        """The chain as it is written on the command line; equal chains have equal texts. One with rules is what its
        file says, as JSON."""
        own = [*(f"{role}:{link.text}" for role, link in self.roles), *(link.text for link in self.links)]
        text = ",".join(own) or "none"
        if not self.rules:
            return text
        rules = {glob: Chain(links).text for glob, links in self.rules}
        return json.dumps({"default": text, "tensors": rules}, separators=(",", ":"), ensure_ascii=False)

    @property
    def label(self) -> str:
        """A short name for tables and messages: the text, or of one with rules the beginning of its hash."""
        return f"by tensor {hashlib.sha256(self.text.encode()).hexdigest()[:8]}" if self.rules else self.text

    @property
    def all_links(self) -> tuple[Links, ...]:
        """The links of any tensors, each combination once."""
        return tuple(dict.fromkeys([self.links, *(links for _, links in self.rules)]))

    @property
    def in_place(self) -> bool:
        """Whether words of any tensors give up bits for the check bits of `inplace`."""
        links = [link for links in self.all_links for link in links] + [link for _, link in self.roles]
        return any(isinstance(link, InPlace) for link in links)

    def of(self, name: str) -> Links:
        """Return the links of a tensor."""
        return next((links for glob, links in self.rules if fnmatchcase(name, glob)), self.links)

    def for_role(self, role: str | None) -> Links:
        """Return the links of the parts of quantised weights that have this role; none if others are named. None: of a
        tensor that is no such part."""
        return tuple(link for own, link in self.roles if own == role) if self.roles else self.links

    @property
    def needs_ber(self) -> bool:
        """Whether what is stored or read depends on the bit-error rate of the arm."""
        return any(link.needs_ber for links in self.all_links for link in links)

    def doubts(self, format: NumberFormat) -> list[str]:
        """Return what may go wrong with links in a format, a sentence each."""
        found = [
            link.doubt(format, {other.name for other in links} - {link.name})
            for links in self.all_links
            for link in links
        ]
        return list(dict.fromkeys(doubt for doubt in found if doubt is not None))

    def check_plain(self) -> None:
        """Refuse a chain for parts of quantised weights where there are none.

        Raises:
            UsageError: it is one.
        """
        if self.roles:
            roles = ", ".join(role for role, _ in self.roles)
            problem = f"{self.text}: these weights are not quantised in the file, and have no {roles} of their own"
            raise UsageError(problem, f"protect whole tensors: --protect {self.roles[0][1].text}")

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse rules that no tensor goes by.

        Args:
            names: the tensors at risk.

        Raises:
            UsageError: a glob matches none of them, or earlier ones have taken all that it matches.
        """
        names, taken = list(names), dict[str, str]()
        for glob, _ in self.rules:
            matched = [name for name in names if fnmatchcase(name, glob)]
            if not matched:
                at_risk = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
                problem = f"plan of protections: {glob!r} matches no tensor at risk ({at_risk})"
                raise UsageError(problem, "mend the glob, or leave its line out; `faultcli inspect MODEL` lists names")
            if all(name in taken for name in matched):
                before = f"that {taken[matched[0]]!r} has not taken before it"
                problem = f"plan of protections: {glob!r} matches no tensor {before}"
                raise UsageError(problem, "the first glob that matches counts: write the narrower one first")
            for name in matched:
                taken.setdefault(name, glob)

    def for_tensors(
        self, tensors: Mapping[str, Tensor], format_of: Callable[[str], NumberFormat], ber: float | None
    ) -> dict[str, Links]:
        """Return the links of every tensor, see `Protection.for_tensors`. What is found for several tensors together (a
        factor per model) is found for those with the same links; but with rules `ldpc` takes bits of every tensor that
        has it.

        Raises:
            UsageError: the chain is for parts of quantised weights, or has a rule that no tensor goes by.
        """
        self.check_plain()
        self.check_names(tensors)
        found: dict[str, Links] = {}
        for links in self.all_links:
            own = _Some(tensors, [name for name in tensors if self.of(name) == links])
            fitted = [
                dict.fromkeys(own, link)  # who chooses by tensor says by name which of them keep their bits
                if self.rules and isinstance(link, Ldpc)
                else link.for_tensors(own, format_of, links[place:], ber)
                for place, link in enumerate(links, start=1)
            ]
            found |= {name: tuple(of[name] for of in fitted) for name in (own if len(own) else ())}
        return found


class _Some(Mapping[str, Tensor]):
    """Some of the tensors of a mapping that may read them when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], names: list[str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


UNPROTECTED = Chain()


def by_row(format_name: str, chain: Chain = UNPROTECTED) -> bool:
    """Whether a memory of this format, behind these protections, has something for every output channel.

    Raises:
        UsageError: there is no such format.
    """
    own = format_name != "native" and parse_format(format_name).by_row
    return own or any(link.by_row for links in chain.all_links for link in links)


def parse_chain(text: str) -> Chain:
    """Read a chain such as `scale=max,guard,secded=64`, or `none`; or one that names parts of quantised weights, such
    as `scales:tmr,codes:parity`, which leaves the others unprotected; or the text of one with rules (`chain_of`).

    Raises:
        UsageError: a link is unknown or malformed, comes twice, stands before one that has to come first, or does not
            go with another one; a part is unknown, comes twice, or is given something else than check words.
    """
    if text == "none":
        return UNPROTECTED
    if text.lstrip().startswith("{"):
        try:
            return chain_of(parse_json(text))
        except ForeignError as error:
            raise UsageError(f"{text}: {error}", _DOCUMENT) from None
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


_DOCUMENT = 'a plan has a default = "CHAIN" and a table [tensors] of "GLOB" = "CHAIN"'


def chain_of(document: Mapping[str, Any]) -> Chain:
    """Read chains by tensor: `default` (a chain; `none` if it is left out), and `tensors`, chains by globs of names, of
    which the first one that matches counts.

    Raises:
        UsageError: another key, something that is no text, or a chain that is none.
    """
    for key in document:
        if key not in ("default", "tensors"):
            unknown = unknown_name("key", str(key), ("default", "tensors"))
            raise UsageError(f"plan of protections: {unknown.message}", f"{unknown.remedy}; {_DOCUMENT}")
    tensors = document.get("tensors", {})
    if not document or not isinstance(tensors, Mapping):
        problem = "is empty" if not document else "tensors is no table"
        raise UsageError(f"plan of protections: {problem}", _DOCUMENT)
    default = _links_in("default", document.get("default", "none"))
    return Chain(default, rules=tuple((str(glob), _links_in(str(glob), own)) for glob, own in tensors.items()))


def _links_in(key: str, text: object) -> Links:
    """Return the links that a plan has for a glob, or as its default."""
    if isinstance(text, Mapping):
        raise UsageError(f"plan of protections: {key} is a table", f"quote globs, they have dots: {_DOCUMENT}")
    if not key or not isinstance(text, str) or not text or text.lstrip().startswith("{"):
        raise UsageError(f"plan of protections: {key!r} = {text!r} is no glob with a chain", _DOCUMENT)
    chain = parse_chain(text)
    if chain.roles:
        problem = f"plan of protections: {key} = {text}: a plan is for whole tensors, not for parts of quantised ones"
        raise UsageError(problem, f"write them as a chain: --protect {text}")
    return chain.links


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
    """Refuse links that change values or words, for words that hold the codes and scales of quantised weights, but for
    `inplace`, which some of them have bits to spare for; and chains by tensor.

    Raises:
        UsageError: names the link.
    """
    if chain.rules:
        raise UsageError(
            f"{chain.label}: is by tensor; these weights are quantised, and protected by part",
            "name parts: --protect scales:tmr,codes:parity",
        )
    for link in chain.links:
        if link.rank != Protection.CHECK and not isinstance(link, InPlace):
            raise UsageError(
                f"{link.text}: works on numbers; the words of quantised weights are codes and scales",
                "use check words (parity, secded=64 or tmr), or inplace where numbers have bits to spare",
            )


def _remedy(earlier: Protection, link: Protection) -> str:
    if earlier.rank > link.rank:
        return f"write {link.text} before {earlier.text}"
    return "choose one of the two"
