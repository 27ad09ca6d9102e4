"""C text: names, constants, and the tables that tensors share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.uint8): "uint8_t",
    np.dtype(np.uint16): "uint16_t",
    np.dtype(np.uint64): "uint64_t",
}
_PER_LINE = 16
_BYTES = [str(value) for value in range(256)]


def identifiers(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Return a C identifier for every name, no two alike: what is no letter and no digit becomes `_`."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = prefix + re.sub(r"[^0-9A-Za-z]+", "_", name)
        unique, number = plain, 1
        while unique in taken:
            number += 1
            unique = f"{plain}_{number}"
        taken.add(unique)
        found[name] = unique
    return found


def text(value: str) -> str:
    """Return a string literal of printable ASCII; anything else is written in octal."""
    escaped = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in value.encode()
    )
    return f'"{"".join(escaped)}"'


def comment(value: str) -> str:
    """Return text that may stand in a comment: on one line, and without an end of it."""
    printable = "".join(char if char.isprintable() else "?" for char in value)
    return printable.replace("*/", "* /").replace("/*", "/ *").replace("??/", "?? /").rstrip("\\")


def constant(value: Any) -> str:
    """Return a number of a table as C writes it, exactly: floats in hexadecimal.

    Raises:
        ValueError: it is NaN or infinite.
    """
    if isinstance(value, np.floating):
        if not np.isfinite(value):
            raise ValueError(f"a table holds {value}")
        return float(value).hex() + ("f" if value.dtype == np.float32 else "")
    return f"{int(value):#x}u" + ("ll" if int(value) >> 32 else "")


def byte_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of an initialiser of bytes; every chunk but the last is whole lines long."""
    for chunk in chunks:
        for start in range(0, len(chunk), 2 * _PER_LINE):
            yield "    " + ",".join([_BYTES[byte] for byte in chunk[start : start + 2 * _PER_LINE]]) + ",\n"


def type_of(table: NDArray[Any]) -> str:
    """Return the C type of a table's entries."""
    return _TYPES[table.dtype]


class TablePool:
    """Tables as static arrays; equal ones are one array."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, bytes], str] = {}
        self._lines: list[str] = []
        self.nbytes = 0

    def add(self, table: NDArray[Any], what: str) -> str:
        """Return the name of the array that holds a table; `what` it is goes into a comment."""
        key = (table.dtype.str, table.tobytes())
        if key not in self._names:
            self._names[key] = name = f"table_{len(self._names)}"
            self.nbytes += table.nbytes
            flat = [constant(value) for value in table.reshape(-1)]
            self._lines.append(f"static const {type_of(table)} {name}[{len(flat)}] = {{ /* {what} */\n")
            rows = range(0, len(flat), _PER_LINE)
            self._lines += [f"    {', '.join(flat[start : start + _PER_LINE])},\n" for start in rows]
            self._lines.append("};\n\n")
        return self._names[key]

    @property
    def source(self) -> str:
        return "".join(self._lines)
