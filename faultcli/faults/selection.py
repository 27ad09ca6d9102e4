"""Which tensors of a checkpoint lie in the memory at risk."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict

from faultcli.checkpoint import TensorInfo
from faultcli.checkpoint.gguf import TYPES
from faultcli.checkpoint.packed import ROLES
from faultcli.errors import CheckpointError, UsageError, unknown_name

TARGETS = {
    "weights": "floating-point tensors with two or more dimensions",
    "all": "every floating-point tensor",
    "any": "every tensor, whole numbers too",
    **ROLES,
    "all-parts": "everything that quantised weights are made of",
}


ACTIVATIONS = "activations"  # a target that is no tensors: what layers give when the model runs


class Selecting(TypedDict, total=False):
    """What a selection is made of, as keyword arguments; see `select`."""

    target: str
    include: Sequence[str]
    exclude: Sequence[str]


class Tensorlike(Protocol):
    """What selection looks at."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


class Weighed(Tensorlike, Protocol):
    """What is looked at to say how much is left out."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Selection:
    """Which tensors lie in the memory at risk; see `select`."""

    target: str = "weights"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Selection:
        """Return the selection among keyword arguments (`Selecting`, and others)."""
        return cls(
            given.get("target", cls.target), tuple(given.get("include") or ()), tuple(given.get("exclude") or ())
        )

    @property
    def layers(self) -> str | None:
        """The glob of layers whose outputs are at risk (`activations:GLOB`, all if it has none); None: of none."""
        return self._parts[1]

    @property
    def of_tensors(self) -> Selection | None:
        """What the tensors at risk are selected by; None where outputs of layers are all that is.

        Raises:
            UsageError: there are globs, and no tensors for them.
        """
        tensors = self._parts[0]
        if tensors is not None:
            return replace(self, target=tensors)
        for option, globs in (("--include", self.include), ("--exclude", self.exclude)):
            if globs:
                problem = f"{option} {globs[0]}: names tensors, and --target {self.target} has none at risk"
                raise UsageError(problem, f"name layers in the target: --target '{ACTIVATIONS}:{globs[0]}'")
        return None

    @property
    def _parts(self) -> tuple[str | None, str | None]:
        """The target of tensors and the glob of layers."""
        *tensors, last = self.target.split(",")
        named, colon, glob = last.partition(":")
        if named != ACTIVATIONS or len(tensors) > 1:
            return self.target, None
        if colon and not glob:
            raise UsageError(f"--target {self.target}: names no layers", f"try: --target '{ACTIVATIONS}:*conv*'")
        return (tensors[0] if tensors else None), glob or "*"

    def check_tensors(self, what: str) -> None:
        """Refuse outputs of layers where only tensors will do.

        Raises:
            UsageError: they are at risk.
        """
        if self.layers is not None:
            raise UsageError(
                f"--target {self.target}: {what} works on tensors, and outputs of layers are none",
                "faultcli campaign takes them; here try: --target weights",
            )

    def names(self, tensors: Iterable[Tensorlike]) -> list[str]:
        """Return the names of the tensors that are selected; raises as `select`."""
        self.check_tensors("this command")
        return select(tensors, target=self.target, include=self.include, exclude=self.exclude)

    def left_out(self, tensors: Iterable[Weighed]) -> str | None:
        """Say which matrices are not at risk because of their dtype, if these are more than half of their bytes; what
        globs leave out is not told to those who wrote them."""
        if self.layers is not None:
            return None if self.of_tensors is None else self.of_tensors.left_out(tensors)
        matrices = [t for t in tensors if len(t.shape) >= 2 and _passes(t.name, self.include, self.exclude)]
        rest = [t for t in matrices if not _in_target(t, self.target)]
        whole, missing = (sum(t.nbytes for t in some) for some in (matrices, rest))
        if 2 * missing <= whole:
            return None
        dtypes = ", ".join(sorted({t.dtype for t in rest}))
        return (
            f"not at risk: {len(rest)} of {len(matrices)} matrices, {100 * missing / whole:.0f} % of their bytes"
            f" ({dtypes}); --target any takes them"
        )


def select(
    tensors: Iterable[Tensorlike], *, target: str = "weights", include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[str]:
    """Return the names of the tensors at risk, in the order given.

    Args:
        tensors: dtype is the safetensors name (`F32`); one that is a part of a quantised weight has its `role`, a key
            of `ROLES`, and counts as weights whatever its dtype.
        target: a key of `TARGETS`.
        include: if any, only names that match one of these globs (case counts).
        exclude: and none that match one of these.

    Raises:
        UsageError: an unknown target, a glob that matches no tensor at all, or nothing left.
        CheckpointError: one that the globs let pass is of a type that is not read (`TensorInfo.unread`).
    """
    if target not in TARGETS:
        raise unknown_name("target", target, [*TARGETS, ACTIVATIONS])
    tensors = list(tensors)
    for option, globs in (("--include", include), ("--exclude", exclude)):
        for glob in globs:
            if not any(fnmatch.fnmatchcase(t.name, glob) for t in tensors):
                raise UsageError(f"{option} {glob}: matches no tensor", "`faultcli inspect MODEL` lists the names")
    _refuse_unread([t for t in tensors if _passes(t.name, include, exclude)])
    chosen = [t.name for t in tensors if _in_target(t, target) and _passes(t.name, include, exclude)]
    if not chosen:
        what = f"--target {target}: no tensor is left ({TARGETS[target]}"
        problem = what + (", after --include/--exclude)" if include or exclude else ")")
        raise UsageError(problem, _how_to_widen([t for t in tensors if _passes(t.name, include, exclude)]))
    return chosen


def _refuse_unread(tensors: Iterable[Tensorlike]) -> None:
    infos = [getattr(t, "info", t) for t in tensors]
    unread = [info for info in infos if isinstance(info, TensorInfo) and info.unread is not None]
    if unread:
        first = unread[0]
        more = f", and {len(unread) - 1} more of such types" if len(unread) > 1 else ""
        raise CheckpointError(
            f"{first.file}: tensor {first.name!r} is {first.unread}, which is not read{more}",
            f"leave it as it is with --exclude {escaped(first.name)!r}, or convert the model to a type that is:"
            f" {', '.join(type.name for type in TYPES.values() if type.is_read)}",
        )


def _how_to_widen(tensors: Sequence[Tensorlike]) -> str:
    for target in ("all", "any"):
        if taken := [t for t in tensors if _in_target(t, target)]:
            dtypes = ", ".join(sorted({t.dtype for t in taken}))
            return f"--target {target} takes {len(taken)} ({dtypes})"
    return "widen the selection"


def _in_target(tensor: Tensorlike, target: str) -> bool:
    role = getattr(tensor, "role", None)
    if role is not None or target in (*ROLES, "all-parts"):
        return role is not None and target not in ROLES.keys() - {role}
    floating = tensor.dtype.startswith(("F", "BF")) and tensor.dtype != "F8_E8M0"
    return target == "any" or (floating and (target == "all" or len(tensor.shape) >= 2))


def escaped(name: str) -> str:
    """Return a tensor's name as a glob that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _passes(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    included = not include or any(fnmatch.fnmatchcase(name, glob) for glob in include)
    return included and not any(fnmatch.fnmatchcase(name, glob) for glob in exclude)
