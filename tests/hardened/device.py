"""The reader in C at the other end of a pipe: descriptions and memory go in, values and counts come out."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from c_compiler import SANITIZERS, SOURCES, STRICT, compile_c, constants, sanitized, struct_fields
from numpy.typing import NDArray

from faultcli.hardened.device.description import Description
from faultcli.hardened.layout import to_bytes

_C_TYPES = {
    "size_t": ctypes.c_size_t,
    "uint8_t": ctypes.c_uint8,
    "int32_t": ctypes.c_int32,
    "uint64_t": ctypes.c_uint64,
}
_CONSTANTS = constants()


class Tensor(ctypes.Structure):
    """`faultcli_tensor`."""

    _fields_ = [(name, _C_TYPES.get(kind, ctypes.c_size_t)) for kind, name in struct_fields()]


@dataclass(frozen=True)
class Status:
    corrected: int
    lost: int
    replaced: int


@dataclass(frozen=True)
class Answer:
    wrong: int  # what the function returned
    status: Status
    values: NDArray[Any]


CHECK, WORDS, FLOATS, DOUBLES = range(4)


class Device:
    def __init__(self, folder: Path) -> None:
        program = folder / "driver"
        self.sanitized = sanitized(folder)
        flags = STRICT + (SANITIZERS if self.sanitized else [])
        compile_c(program, *flags, f"-I{SOURCES}", SOURCES / "faultcli_reader.c", Path(__file__).with_name("driver.c"))
        self._errors = (folder / "errors.txt").open("w+b")
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        ended = self._process.wait(timeout=20)
        self._errors.close()
        if kind is None:
            assert ended == 0, "the sanitizer found memory that was not given back, or worse"

    def know(self, tensor: Description) -> int:
        """Make a tensor known in place of the last one; return its number."""
        self._send(0)
        places = self.place(tensor)
        if tensor.scales is None:
            self._define(tensor, places)
            return 0
        self._define(tensor.scales, places)
        self._define(tensor, places, scales=0)
        return 1

    def place(self, tensor: Description) -> dict[str, int]:
        """Return the byte offsets of a tensor's regions: one after the other, at odd places."""
        places, at = {}, 3
        for region in tensor.all_regions:
            places[region.name] = at
            at += len(to_bytes(region.words, region.bits)) + 1
        return places

    def hold(self, tensor: Description, words: dict[str, NDArray[Any]]) -> None:
        """Put words, by region, into the memory."""
        image = bytearray(3)
        for region in tensor.all_regions:
            image += to_bytes(words[region.name], region.bits).tobytes() + b"\xff"
        self._send(2, len(image[:-1]), bytes(image[:-1]))  # so that a byte too many is seen

    def read(self, tensor: int, what: int, first: int, count: int, dtype: Any) -> Answer:
        size = np.dtype(dtype).itemsize
        self._send(3, tensor, what, first, count, size)
        head = self._receive(16)
        wrong, *status = struct.unpack("<4I", head)
        return Answer(wrong, Status(*status), np.frombuffer(self._receive(size * count), dtype=dtype))

    def _define(self, tensor: Description, places: dict[str, int], scales: int | None = None) -> None:
        record, pointers = Tensor(), []
        for name, value in tensor.fields.items():
            if isinstance(value, np.ndarray):
                pointers.append((name, value.tobytes()))
            else:
                setattr(record, name, _CONSTANTS[value] if isinstance(value, str) else value)
        for region in tensor.regions:
            setattr(record, region.place, places[region.name])
        self._send(1, ctypes.sizeof(record), bytes(record), len(pointers) + (scales is not None))
        for name, data in pointers:
            self._send(getattr(Tensor, name).offset, len(data), data)
        if scales is not None:
            self._send(Tensor.scales.offset, 2**64 - 1, scales)

    def _send(self, *parts: int | bytes) -> None:
        assert self._process.stdin is not None
        try:
            for part in parts:
                self._process.stdin.write(part if isinstance(part, bytes) else struct.pack("<Q", part))
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _receive(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) != size:
            self._fail()
        return data

    def _fail(self) -> None:
        self._process.wait(timeout=20)
        self._errors.seek(0)
        raise AssertionError(self._errors.read().decode()[-4000:])
