"""A sealed checkpoint and ways to damage it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from small_checkpoints import single

from faultcli.checkpoint import Checkpoint
from faultcli.seal.checking import Verification, verify_with_seal
from faultcli.seal.making import write_seal
from faultcli.seal.record import Seal
from faultcli.seal.repair import SealRepair, repair_with_seal

BLOCK = 128  # small, so that a small file has many


@dataclass
class Sealed:
    """A checkpoint `model`, its `seal`, and its bytes as they were."""

    model: Path
    seal: Path
    intact: bytes
    folder: Path

    @property
    def opened(self) -> Seal:
        return Seal.open(self.seal)

    def write(self, content: bytes | bytearray) -> None:
        self.model.write_bytes(bytes(content))

    def damage(self, *blocks: int, bit: int = 77) -> None:
        """Flip one bit in each block of the file as it is now."""
        content = bytearray(self.model.read_bytes())
        for block in blocks:
            at = min(block * BLOCK + bit // 8, len(content) - 1)
            content[at] ^= 1 << bit % 8
        self.write(content)

    def flip(self, bit: int) -> None:
        """Write the intact file with one bit of it flipped."""
        content = bytearray(self.intact)
        content[bit // 8] ^= 1 << bit % 8
        self.write(content)

    def verify(self) -> Verification:
        return verify_with_seal(self.model, self.opened)

    def damaged(self) -> list[int]:
        return [block.number for one in self.verify().files for block in one.damaged]

    def repair(self, **options: object) -> tuple[SealRepair, bytes]:
        """Repair, and return what was written, too."""
        output = self.folder / "repaired.safetensors"
        output.unlink(missing_ok=True)
        found = repair_with_seal(self.model, self.opened, output, **options)  # type: ignore[arg-type]
        return found, output.read_bytes()


def seal_of(folder: Path, *, parity: int = 2, block: int | None = BLOCK, source: Path | None = None) -> Sealed:
    """A checkpoint of a few kilobytes, or a copy of `source`, and its seal."""
    model = folder / "model.safetensors"
    if source is None:
        single(model)
    else:
        shutil.copyfile(source, model)
    seal = folder / "model.safetensors.seal"
    write_seal(Checkpoint.open(model), seal, parity=parity, block=block)
    return Sealed(model, seal, model.read_bytes(), folder)


def tensor_place(seal: Path, name: str) -> tuple[int, int]:
    """Where a tensor of a seal lies in its file: offset and bytes."""
    info = Checkpoint.open(seal).info(name)
    return info.offset, info.nbytes


def flip_byte(path: Path, at: int) -> None:
    content = np.fromfile(path, np.uint8)
    content[at] ^= 0x10
    path.write_bytes(content.tobytes())
