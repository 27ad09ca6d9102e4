"""How to damage a file: seeded changes of its bytes, its JSON, its safetensors header, its numbers, its cells."""

from __future__ import annotations

import gzip
import io
import json
import random
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]

NUMBERS = (0, -1, 1, 2, 0.5, 1e300, -1e300, 1e-320, 10**19, 2**63, -(2**63) - 1, 10**400, 7, 255, 65536)
NASTY: tuple[Any, ...] = (
    *NUMBERS,
    *(
        None,
        True,
        False,
        "",
        "x",
        "nan",
        "1e400",
        "[/]",
        "\x1b[31m",
        "a\x00b",
        "é" * 300,
        "9" * 5000,
        "../x",
        "/dev/zero",
    ),
    *([], {}, [[]], [None], ["x", 1], {"x": {}}, float("inf"), float("nan")),
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e300, -1e300, 1e30, 3e38, 1e-300, float("inf"), -float("inf"), float("nan"))


def bits(data: bytes, random: random.Random) -> bytes:
    """Flip up to 16 bits, near the front half of the time: that is where headers are."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if out:
            end = len(out) if random.random() < 0.5 else min(len(out), 256)
            out[random.randrange(end)] ^= 1 << random.randrange(8)
    return bytes(out)


def cut(data: bytes, random: random.Random) -> bytes:
    """Keep the front."""
    return data[: random.randrange(len(data) + 1)]


def splice(data: bytes, random: random.Random) -> bytes:
    """Remove, repeat, insert or overwrite a piece."""
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice((1, 4, 8, 64, 512)))
    piece = data[start:end]
    noise = random.choice((b"\0", b"\xff", b"9", b"[", b"{", random.randbytes(1))) * random.choice((1, 4, 8, 4000))
    changed = random.choice((b"", piece * 2, piece + noise, noise[: len(piece)], noise, random.randbytes(len(piece))))
    return data[:start] + changed + data[end:]


def json_value(value: Any, random: random.Random) -> Any:
    """Change a JSON value in one to three places: other values, other types, names that go, values that swap."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return random.choice(NASTY)
        holder, key = random.choice(places)
        kind = random.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, at = random.choice(places)
            holder[key], other[at] = json.loads(json.dumps((other[at], holder[key])))
        elif kind == 2 and isinstance(holder, dict):
            holder[random.choice((f"{key}x", "", "x", key.upper()))] = holder.pop(key)
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = random.choice(NUMBERS)
        else:
            holder[key] = json.loads(json.dumps(random.choice(NASTY)))
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def json_text(data: bytes, random: random.Random) -> bytes:
    """Change what a JSON text says; now and then write a value that is deep or long."""
    try:
        text = json.dumps(json_value(json.loads(data), random))
    except (ValueError, RecursionError):  # a change before this one made it none
        text = data.decode()
    if random.random() < 0.1:
        deep = random.choice(("[" * 100_000, "[" * 3000 + "]" * 3000, "9" * 5000, '{"a":' * 2000 + "1" + "}" * 2000))
        at = text.find(":", random.randrange(len(text))) + 1
        text = text[:at] + deep + text[at:]
    return text.encode()


def header(data: bytes, random: random.Random) -> bytes:
    """Change a safetensors header, or the JSON within its metadata; the length before it is right again."""
    length = struct.unpack_from("<Q", data)[0]
    content = json.loads(data[8 : 8 + length])
    metadata = content.get("__metadata__") or {}
    inner = [key for key, text in metadata.items() if text.startswith("{")]
    if inner and random.random() < 0.7:
        key = random.choice(inner)
        metadata[key] = json_text(metadata[key].encode(), random).decode()
    else:
        content = json_value(content, random)
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def tensor_values(data: bytes, random: random.Random) -> bytes:
    """Overwrite elements of a safetensors file's tensors with numbers that nobody computes."""
    length = struct.unpack_from("<Q", data)[0]
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        entry = entries[random.choice(sorted(entries))]
        size = {"F64": 8, "F32": 4, "I64": 8, "U64": 8}.get(entry["dtype"], 1)
        begin, end = entry["data_offsets"]
        if end - begin < size:
            continue
        start = 8 + length + begin + size * random.randrange((end - begin) // size)
        code = {"F64": "<d", "F32": "<f"}.get(entry["dtype"])
        value = random.choice(FLOATS)
        if code == "<f" and abs(value) > 3.4e38:
            value = float("inf")
        word = struct.pack(code, value) if code else random.choice((b"\0", b"\xff", b"\x80")) * size
        for at in range(start, min(8 + length + end, start + random.choice((1, 1, 10**6)) * size), size):
            out[at : at + size] = word
    return bytes(out)


def tensor_set(data: bytes, random: random.Random) -> bytes:
    """Drop, rename, reshape or repeat whole tensors of a safetensors file; everything else fits again."""
    length = struct.unpack_from("<Q", data)[0]
    entries = json.loads(data[8 : 8 + length])
    metadata = entries.pop("__metadata__", None)
    parts = {name: (entry, data[8 + length :][slice(*entry["data_offsets"])]) for name, entry in entries.items()}
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(sorted(parts) or [""])
        kind = random.randrange(5)
        if name and kind == 0:
            del parts[name]
        elif name and kind == 1:
            parts[random.choice(sorted(parts))] = parts[name]
        elif name and kind == 2:
            entry, content = parts[name]
            count = max(1, len(content) // 8)
            parts[name] = (
                {**entry, "dtype": "F64", "shape": random.choice(([count], [1, count], []))},
                content[: 8 * count],
            )
        elif name and kind == 3:
            entry, content = parts[name]
            wanted = random.choice(("U8", "I8", "BOOL", "F8_E4M3", "U16", "U32", "U64", "BF16", "C64", "F4"))
            parts[name] = ({**entry, "dtype": wanted}, content)
        elif name:
            parts[random.choice((f"{name}x", "labels", "inputs", "class_names", "network.9.weight"))] = parts.pop(name)
    out, body = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, (entry, content) in parts.items():
        out[name] = {**entry, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(out).encode()
    return struct.pack("<Q", len(text)) + text + body


def npz_members(data: bytes, random: random.Random) -> bytes:
    """Change the members of an npz: their numpy headers, their bytes, their names, how they are packed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(sorted(members))
        content = members[name]
        kind = random.randrange(6)
        if kind == 0:
            members[name] = random.choice((bits, cut, splice))(content, random)
        elif kind == 1:
            members[random.choice(("labels", "labels.npy", "inputs.npy", "images.npy", "class_names.npy"))] = content
        elif kind == 2:
            members[name] = random.choice(
                (b"", b"hello", b"\x93NUMPY", b"\x93NUMPY\x02\0\xff\xff\xff\xff{", b"\0" * 999)
            )
        elif kind == 3:
            del members[name]
        else:
            members[name] = _numpy_header(content, random)
        if not members:
            break
    out = io.BytesIO()
    packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _numpy_header(content: bytes, random: random.Random) -> bytes:
    types = (
        "|b1",
        "|u1",
        "<u2",
        ">u4",
        "<u8",
        "<i8",
        "<f2",
        ">f8",
        "<c16",
        "<U4",
        "|S3",
        "|O",
        "<M8[s]",
        "|V8",
        "<f16",
        "x",
        "",
    )
    shapes = (
        "()",
        "(2,)",
        "(500,)",
        "(-1,)",
        "(0, 8, 8)",
        "(10**9, 8, 8)",
        "(99999999999999999999,)",
        "(2, 2, 2, 2, 2)",
        "2",
        "(True,)",
    )
    described = (
        f"{{'descr': {random.choice(types)!r}, 'fortran_order': {random.choice((True, False, 1, None))}, "
        f"'shape': {random.choice(shapes)}, }}"
    )
    odd = random.choice(
        (described, described, described, "(" * 5000, "{[]: 1}", "{", "'" + "x" * 200, described + " " * 40_000)
    )
    text = odd.encode() + b"\n"
    version = random.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) & 0xFFFF)
    return b"\x93NUMPY" + bytes(version) + size + text + content[128:]


def idx_header(data: bytes, random: random.Random) -> bytes:
    """Change the type or the dimensions that an IDX file begins with."""
    out = bytearray(data)
    at = random.choice((0, 4, 8, 12))
    out[at : at + 4] = random.choice(
        (b"\0\0\x08\x03", b"\0\0\x08\x01", b"\0\0\0\0", b"\xff" * 4, b"\0\0\0\x01", b"\0\0\x01\0")
    )
    return bytes(out)


def toml_text(data: bytes, random: random.Random) -> bytes:
    """Change an entry of a TOML file, or add one."""
    lines = data.decode().splitlines()
    keys = [line.partition(" =")[0] for line in lines]
    others = (
        "trials",
        "workers",
        "shard",
        "protect",
        "seed",
        "until-ci",
        "budget",
        "data",
        "arch",
        "threads",
        "store",
    )
    key = random.choice((*keys, *others))
    values = (
        "1e400",
        "9" * 5000,
        "9" * 20,
        '"x"',
        '"' + "9" * 5000 + '"',
        "[[1]]",
        "[" * 4000,
        "nan",
        "-1",
        "0",
        "true",
    )
    values += ("1979-05-27", "{a = 1}", '"\\u0000"', '"[/]"', '"\\u001b[31m"', "[]", '""', "{a=" * 3000, '["1", 2.5]')
    entry = f"{random.choice((key, key, key, 'a.' * 3000 + 'b'))} = {random.choice(values)}"
    lines = [line for line in lines if not line.startswith(f"{key} ")]
    return "\n".join([*lines, entry]).encode()


def within_gzip(damage: Damage) -> Damage:
    """Damage what is packed, and pack it again."""
    return lambda data, random: gzip.compress(damage(gzip.decompress(data), random), 1)


def cells(path: Path, random: random.Random) -> None:
    """Change cells of an SQLite file: other types, other numbers, changed JSON; rows and tables that go."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for _ in range(random.choice((1, 1, 2, 3))):
            table = random.choice(tables)
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            kind = random.randrange(12)
            if kind == 0:
                connection.execute(f"DELETE FROM {table}")
            elif kind == 1:
                connection.execute(f"ALTER TABLE {table} RENAME COLUMN {random.choice(columns)} TO other")
            elif kind == 2:
                pragma = random.choice(("user_version", "application_id"))
                connection.execute(f"PRAGMA {pragma} = {random.choice((0, 2, -1))}")
            elif rows:
                row, at = random.choice(rows), random.randrange(len(columns))
                old = row[at]
                new: Any = random.choice(
                    (None, -1, 10**18, 1.5, "x", b"\xff\0", "", "[]", "{}", "null", float("inf"), "9" * 5000)
                )
                if isinstance(old, str) and old.startswith(("{", "[")) and random.random() < 0.8:
                    new = json_text(old.encode(), random).decode()
                where = " AND ".join(f"{column} IS ?" for column in columns)
                connection.execute(f"UPDATE {table} SET {columns[at]} = ? WHERE {where}", (new, *row))
    except sqlite3.Error:
        pass  # a constraint holds: the change before it, if any, stays
    finally:
        connection.close()
