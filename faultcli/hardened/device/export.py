"""A folder that a device's build takes as it is: reader, weights, and a test that they read what faultcli read."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from faultcli.errors import OutputError, UsageError
from faultcli.files import atomic_directory
from faultcli.hardened.device.c_source import TablePool, byte_lines, comment, constant, identifiers, text
from faultcli.hardened.device.description import Description, MemoryRegion, describe
from faultcli.hardened.device.golden import FIRST, RUN, GoldenTensor, golden
from faultcli.hardened.device.readme import readme
from faultcli.hardened.layout import container_bits, to_bytes
from faultcli.protect.protected_tensor import StoredTensor

_COPIED = ("faultcli_reader.h", "faultcli_reader.c", "test.c", "Makefile")
_ALIGNMENT = 8  # bytes, of every region: what is read word by word may be read faster
_CHUNK = 1 << 16  # words written at a time: a multiple of 8, so that packed ones end on a byte


@dataclass(frozen=True)
class DeviceExport:
    """What was written.

    `folder`: where. `identifiers`: the C name of every tensor's description. `memory_bytes`: of all regions, check
    words included: the size of `weights.bin`. `table_bytes`: constants that the reader needs beside them.
    """

    folder: Path
    identifiers: Mapping[str, str]
    memory_bytes: int
    table_bytes: int


@dataclass(frozen=True)
class _Placed:
    """All regions of all tensors, and at which byte each begins."""

    regions: Mapping[str, tuple[MemoryRegion, int]]
    nbytes: int

    @classmethod
    def of(cls, tensors: Iterable[Description]) -> _Placed:
        regions, at = {}, 0
        for tensor in tensors:
            for region in tensor.all_regions:
                regions[region.name] = (region, at)
                at += region.nbytes
                at += -at % _ALIGNMENT
        return cls(regions, at)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of all regions in order, a bounded number at a time, each a multiple of 8."""
        for region, _ in self.regions.values():
            for start in range(0, len(region.words), _CHUNK):
                data = to_bytes(region.words[start : start + _CHUNK], region.bits).tobytes()
                yield data + bytes(-len(data) % _ALIGNMENT)


def check_folder(folder: Path) -> None:
    """Refuse a folder for a device that holds something, or is none; OutputError."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise OutputError(f"{folder}: is not empty", "name a new folder")
    elif folder.exists() or not folder.parent.is_dir():
        what = "is a file" if folder.exists() else f"its directory {folder.parent} does not exist"
        raise OutputError(f"{folder}: {what}", "name a new folder in one that exists")


def export_device(tensors: Mapping[str, StoredTensor], folder: Path, *, title: str) -> DeviceExport:
    """Write a folder with the reader in C, the words of tensors, their descriptions, and a test that holds the one to
    the others: `make test` in it.

    Args:
        tensors: as they lie in a memory, by name (`MemoryImage.tensors`).
        folder: to be made, or empty. It appears whole or not at all.
        title: the model's name, for the README and for comments.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
        UsageError: there are no tensors, or one is stored in a way that the reader does not know.
    """
    check_folder(folder)
    if not tensors:
        raise UsageError("there are no tensors to write for a device", "select some")
    described = {name: describe(stored) for name, stored in tensors.items()}
    names = identifiers(described, "tensor_")
    placed = _Placed.of(described.values())
    pool = TablePool()
    with atomic_directory(folder, force=folder.is_dir()) as target:
        source = files("faultcli.hardened.device")
        for name in _COPIED:
            with as_file(source / name) as own:
                shutil.copyfile(own, target / name)
        _write(target / "faultcli_config.h", _config(described.values()))
        _write(target / "weights.h", _header(title, described, tensors, names, placed))
        _write(target / "weights.c", _descriptions(described, names, placed, pool))
        with (target / "weights.bin").open("wb") as binary:
            for chunk in placed.chunks():
                binary.write(chunk)
        _write(target / "weights_data.c", _data(placed))
        _write(target / "golden.h", _golden({name: golden(tensors[name]) for name in tensors}, names, placed))
        export = DeviceExport(folder, names, placed.nbytes, pool.nbytes)
        _write(target / "README.md", [_readme(title, described, export)])
    return export


def _readme(title: str, described: Mapping[str, Description], export: DeviceExport) -> str:
    numbers = [one for one in described.values() if one.fields["reads_as"] != "FAULTCLI_NO_NUMBER"]
    example = (numbers or list(described.values()))[0]
    bits = max(8, container_bits(int(str(example.fields["bits"]))))
    kinds = {"FAULTCLI_F64": ("double", "double"), "FAULTCLI_NO_NUMBER": (f"uint{bits}_t", "words")}
    type_, kind = kinds.get(str(example.fields["reads_as"]), ("float", "float"))
    facts: dict[str, int | str] = {
        "memory": export.memory_bytes,
        "tables": export.table_bytes,
        "values": sum(int(str(one.fields["elements"])) for one in described.values()),
        "tensors": len(described),
        "type": type_,
        "kind": kind,
        "count": max(1, min(64, int(str(example.fields["elements"])))),
    }
    return readme(title, export.identifiers[example.name], facts)


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="ascii", errors="replace", newline="\n") as file:
        file.writelines(lines)


def _all(described: Iterable[Description]) -> Iterator[Description]:
    for tensor in described:
        yield tensor
        if tensor.scales is not None:
            yield tensor.scales


def _config(described: Iterable[Description]) -> Iterator[str]:
    """Leave out what no tensor needs."""
    fields = [tensor.fields for tensor in _all(described)]
    widest = max(int(str(own["bits"])) for own in fields)
    double = any(own.get("wide") or own["reads_as"] == "FAULTCLI_F64" for own in fields)
    flips = max(int(str(own.get("bch_t", 0))) for own in fields)
    secded = any(own.get("check") == "FAULTCLI_SECDED_CODE" for own in fields)
    posterior = any("posterior" in own or "wide_posterior" in own for own in fields)
    yield "/* What this model needs of the reader. */\n#ifndef FAULTCLI_CONFIG_H\n#define FAULTCLI_CONFIG_H\n\n"
    yield f"#define FAULTCLI_WORD_BITS {64 if widest > 32 else 32} /* the widest word: 32 or 64 */\n"
    yield f"#define FAULTCLI_DOUBLE {int(double)} /* values that are computed or read in double precision */\n"
    yield f"#define FAULTCLI_BCH {flips} /* the most flips that `inplace` corrects in a block; 0 leaves it out */\n"
    yield f"#define FAULTCLI_SECDED {int(secded)} /* `secded` */\n"
    yield f"#define FAULTCLI_POSTERIOR {int(posterior)} /* `posterior` */\n\n#endif\n"


def _header(
    title: str,
    described: Mapping[str, Description],
    tensors: Mapping[str, StoredTensor],
    names: Mapping[str, str],
    placed: _Placed,
) -> Iterator[str]:
    yield f"/* {comment(title)}: the tensors, and where their words lie.\n *\n"
    yield " * `weights_data` (weights_data.c) and the file weights.bin hold the same bytes: all regions, one after\n"
    yield " * the other, each at a multiple of 8. Link the one, or map the other and leave weights_data.c out.\n *\n"
    yield " *        offset        bytes  region\n"
    for region, at in placed.regions.values():
        size = region.nbytes
        yield f" * {at:>13} {size:>12}  {comment(region.name)}, {len(region.words)} words of {region.bits} bits\n"
    yield " */\n#ifndef WEIGHTS_H\n#define WEIGHTS_H\n\n"
    yield '#include "faultcli_reader.h"\n\n#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
    yield f"#define WEIGHTS_BYTES {placed.nbytes}u\n#define WEIGHTS_TENSORS {len(described)}u\n\n"
    yield f"extern const uint8_t weights_data[{max(1, placed.nbytes)}];\n\n"
    yield "/* In the order of the checkpoint. */\n"
    yield "extern const faultcli_tensor *const weights_tensors[WEIGHTS_TENSORS];\n\n"
    for name, stored in tensors.items():
        links = ", ".join(stored.names) or "no protection"
        shape = " x ".join(map(str, stored.shape)) or "one value"
        yield f"/* {comment(name)}: {shape}; {stored.format.name}; {links} */\n"
        yield f"extern const faultcli_tensor {names[name]};\n"
    yield "\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n"


def _descriptions(
    described: Mapping[str, Description], names: Mapping[str, str], placed: _Placed, pool: TablePool
) -> Iterator[str]:
    parts: list[str] = []
    for name, tensor in described.items():
        if tensor.scales is not None:
            parts += _description(tensor.scales, f"static const faultcli_tensor scales_of_{names[name]}", placed, pool)
        extra = [] if tensor.scales is None else [f"    .scales = &scales_of_{names[name]},\n"]
        parts += _description(tensor, f"const faultcli_tensor {names[name]}", placed, pool, extra)
    yield '/* The tensors, and the tables that they share. */\n#include "weights.h"\n\n'
    yield pool.source
    yield from parts
    yield "const faultcli_tensor *const weights_tensors[WEIGHTS_TENSORS] = {\n"
    yield from (f"    &{name},\n" for name in names.values())
    yield "};\n"


def _description(
    tensor: Description, declaration: str, placed: _Placed, pool: TablePool, extra: Iterable[str] = ()
) -> Iterator[str]:
    yield f"{declaration} = {{\n    .name = {text(tensor.name)},\n"
    for region in tensor.regions:
        yield f"    .{region.place} = {placed.regions[region.name][1]}u,\n"
    for field, value in tensor.fields.items():
        if isinstance(value, np.ndarray):
            yield f"    .{field} = {pool.add(value, field)},\n"
        else:
            yield f"    .{field} = {value},\n"
    yield from extra
    yield "};\n\n"


def _data(placed: _Placed) -> Iterator[str]:
    yield f'#include "weights.h"\n\nconst uint8_t weights_data[{max(1, placed.nbytes)}] = {{\n'
    yield from byte_lines(placed.chunks() if placed.nbytes else [b"\0"])
    yield "};\n"


def _golden(found: Mapping[str, GoldenTensor], names: Mapping[str, str], placed: _Placed) -> Iterator[str]:
    runs = [(place, run) for place, one in enumerate(found.values()) for run in one.runs]
    yield '/* What has to be read: see test.c. */\n#include "weights.h"\n\n'
    yield f"#define GOLDEN_RUN {RUN}\n#define GOLDEN_TENSORS {len(found)}u\n#define GOLDEN_RUNS {len(runs)}u\n\n"
    yield "typedef struct {\n    size_t at;\n    uint8_t mask;\n} golden_flip;\n\n"
    yield "typedef struct {\n    const faultcli_tensor *tensor;\n    unsigned size; /* bytes of a value */\n"
    yield "    uint32_t crc; /* of all values */\n    unsigned first_count;\n"
    yield f"    uint64_t first[{FIRST}];\n}} golden_tensor;\n\n"
    yield "typedef struct {\n    const golden_tensor *golden;\n    const golden_flip *flips;\n    size_t flip_count;\n"
    yield "    size_t first;\n    size_t count;\n    const uint64_t *bits;\n    uint32_t corrected;\n"
    yield "    uint32_t lost;\n} golden_run;\n\n"
    yield "static const golden_tensor golden_tensors[GOLDEN_TENSORS] = {\n"
    for name, one in found.items():
        first = ", ".join(map(constant, one.bits)) or "0"
        yield f"    {{&{names[name]}, {one.size}, {one.crc:#x}u, {len(one.bits)}, {{{first}}}}},\n"
    yield "};\n\n"
    for number, (_, run) in enumerate(runs):
        bits = ", ".join(map(constant, run.bits))
        yield f"static const uint64_t bits_{number}[{len(run.bits)}] = {{{bits}}};\n"
        flips = ", ".join(f"{{{at}u, {mask:#x}}}" for word in run.flips for at, mask in _bytes_hit(*word, placed))
        yield f"static const golden_flip flips_{number}[] = {{{flips}}};\n"
    yield "\nstatic const golden_run golden_runs[GOLDEN_RUNS != 0 ? GOLDEN_RUNS : 1] = {\n"
    for number, (place, run) in enumerate(runs):
        flips = f"flips_{number}, sizeof flips_{number} / sizeof *flips_{number}"
        counts = f"{run.corrected}, {run.lost}"
        yield f"    {{&golden_tensors[{place}], {flips}, {run.first}u, {len(run.bits)}, bits_{number}, {counts}}},\n"
    yield "    {0, 0, 0, 0, 0, 0, 0, 0},\n};\n" if not runs else "};\n"


def _bytes_hit(region: str, word: int, mask: int, placed: _Placed) -> Iterator[tuple[int, int]]:
    """Yield the bytes of the memory, and which of their bits, that flips in a word hit."""
    own, start = placed.regions[region]
    bit = word * container_bits(own.bits)
    wide = mask << bit % 8
    for byte in range((wide.bit_length() + 7) // 8):
        if wide >> 8 * byte & 255:
            yield start + bit // 8 + byte, wide >> 8 * byte & 255
