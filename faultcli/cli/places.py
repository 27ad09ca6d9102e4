"""Which files a command reads and which it writes: declared once per option, checked once for all commands.

A parameter that names a file or a folder carries one of `READS`, `WRITES` and `KEEPS` in its annotation; a test goes
over all commands and fails for one that does not. Before a command does anything, every file that it will write is
compared with every file that it reads and with every other one that it writes. The same file under another name (a
link, a hard link, `./`) is the same file.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from faultcli.errors import FaultcliError, OutputError, UsageError


class Role(Enum):
    """What a command does to what an option names."""

    READS = "reads"  # a file, a folder, or a text that may name one: `mnist:DIR`, `measured:FILE`
    WRITES = "writes"  # a file or a folder that appears, or is replaced
    KEEPS = "keeps"  # a file that is read, and added to


READS, WRITES, KEEPS = Role.READS, Role.WRITES, Role.KEEPS


@dataclass
class Places:
    """What one run of a command reads and writes, by option."""

    read: list[tuple[str, Path]] = field(default_factory=list)
    written: list[tuple[str, Path]] = field(default_factory=list)

    def writes(self, option: str, target: Path) -> None:
        """Take note of an output.

        Raises:
            OutputError: it is an input, or lies in a folder of inputs and exists.
            UsageError: another option writes it.
        """
        for other, path in self.read:
            if _same(target, path):
                raise _is_input(option, target, other)
            if path.is_dir() and _may_be_input(option, target) and _real(path) in _real(target).parents:
                problem = f"{target}: lies in {path}, which {other} names; inputs are never changed"
                raise OutputError(problem, f"choose another {_brief(option)}")
        for other, path in self.written:
            if _same(target, path):
                raise UsageError(
                    f"{target}: {other} and {option} cannot be one file", f"choose another {_brief(option)}"
                )
        self.written.append((option, target))

    def reads(self, option: str, path: Path) -> None:
        """Take note of an input.

        Raises:
            OutputError: an option writes it.
        """
        for other, target in self.written:
            if _same(target, path):
                raise _is_input(other, target, option)
        self.read.append((option, path))


_OF_A_MODEL = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json")
_JOURNALS = ("-journal", "-wal", "-shm")
_RESULTS = (".html", ".md", ".xml", ".jsonl", ".parquet", ".sqlite", ".db", ".svg")
_here: ContextVar[Places] = ContextVar("places")


def writes(option: str, target: Path) -> Path:
    """Take note of an output whose name the command itself has made up, and return it; raises as `Places.writes`."""
    _here.get().writes(option, target)
    return target


def beside(path: Path, what: str) -> Path:
    """Return the default output: `model.faulty.safetensors` beside `model.safetensors`, `dir.faulty` beside `dir`."""
    path = path if path.name not in ("", "..") else path.resolve()
    ending = path.suffix if path.suffix in (".safetensors", ".gguf") else ""
    stem = path.name.removesuffix(".index.json").removesuffix(".safetensors").removesuffix(ending)
    return path.with_name(f"{stem}.{what}{ending}")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that looks at what it reads and writes before it does anything."""
    roles = roles_of(command)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        try:
            os.getcwd()
        except FileNotFoundError:
            raise UsageError("the working directory does not exist any more", "go to one that does: cd") from None
        places = Places()
        token = _here.set(places)
        try:
            for name, (option, role) in roles.items():
                for text in _listed(values.get(name)):
                    if role is Role.READS:
                        for path in _named(text):
                            places.reads(option, path)
            for name, (option, role) in roles.items():
                for text in _listed(values.get(name)):
                    if role is not Role.READS and (option, text) != ("--json", "-"):
                        places.writes(option, Path(text))
            command(**values)
        finally:
            _here.reset(token)

    return run


def roles_of(command: Callable[..., None]) -> dict[str, tuple[str, Role]]:
    """Return the parameters of a command that name files: how they are spelled, and their role."""
    found = {}
    hints = get_type_hints(command, include_extras=True)
    for name in inspect.signature(command).parameters:
        about = get_args(hints[name])[1:]
        role = next((item for item in about if isinstance(item, Role)), None)
        if role is not None:
            given = [
                one
                for item in about
                for one in (getattr(item, "default", None), *(getattr(item, "param_decls", None) or ()))
            ]
            spellings = [one for one in given if isinstance(one, str) and one.startswith("-")]  # typer keeps one apart
            argument = any(type(item).__name__ == "ArgumentInfo" for item in about)
            spelled = name.upper() if argument else max(spellings, key=len, default=f"--{name.replace('_', '-')}")
            found[name] = (spelled, role)
    return found


def _is_input(option: str, target: Path, named_by: str) -> OutputError:
    what = "the input" if named_by.isupper() else f"what {named_by} names"
    return OutputError(f"{target}: is {what}; inputs are never changed", f"choose another {_brief(option)}")


def _brief(option: str) -> str:
    return "-o" if option == "--output" else option


def _listed(value: object) -> list[str]:
    if value is None:
        return []
    items: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    return [str(item) for item in items]


def _named(text: str) -> Iterator[Path]:
    """Yield what a text names, as far as it exists: itself, `KIND:PLACE[,OPTION=PLACE]`, the module of a factory; and
    what is read with that: the files of a checkpoint and of its folder, the journal of a store."""
    parts = [text, *(part for piece in text.split(",") for part in (piece, piece.partition("=")[2]))]
    parts += [piece.partition(":")[2] for piece in parts if ":" in piece]
    modules = [piece.partition(":")[0].replace(".", "/") for piece in (text, text.partition(",")[0]) if ":" in piece]
    parts += [f"{module}{ending}" for module in modules if module for ending in (".py", "/__init__.py")]
    for path in {Path(part) for part in parts if part and os.path.exists(part)}:
        yield path
        if not path.is_dir():
            yield from _beside(path)


def _beside(path: Path) -> Iterator[Path]:
    """Yield what is read with a file: the shards of an index, what says how a model in the same folder is built, and
    the journal that SQLite would apply to it."""
    if path.suffix == ".json":
        from faultcli.checkpoint.locate import locate

        with contextlib.suppress(FaultcliError):
            yield from locate(path).files
    if path.name.endswith((".safetensors", ".index.json", ".gguf")):
        yield from (path.with_name(name) for name in _OF_A_MODEL if path.with_name(name).is_file())
    yield from (path.with_name(path.name + ending) for ending in _JOURNALS)


def _may_be_input(option: str, target: Path) -> bool:
    """Whether a file in a folder of inputs may be one of them: it is there, and no earlier result. What --json replaces
    has been looked at, and reports have endings that no model or data set has."""
    return target.is_file() and option != "--json" and target.suffix not in _RESULTS


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, be it there or not."""
    try:
        return one.samefile(other)
    except OSError:
        return _real(one.parent) / one.name == _real(other.parent) / other.name


def _real(path: Path) -> Path:
    """The path without links, as far as it exists. (`Path.resolve` raises where links go round in a circle.)"""
    return Path(os.path.realpath(path))
