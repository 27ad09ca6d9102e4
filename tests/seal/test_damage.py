"""Every kind of damage is found, named and, as far as the seal reaches, brought back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from safetensors.torch import save_file
from sealed import BLOCK, Sealed, seal_of
from small_checkpoints import digests, in_a_directory, sharded

from faultcli.checkpoint import Checkpoint
from faultcli.errors import CheckpointError, OutputError, UsageError
from faultcli.seal.checking import verify_with_seal
from faultcli.seal.making import sealed_bytes, write_seal
from faultcli.seal.record import Seal, default_seal
from faultcli.seal.repair import repair_with_seal


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return seal_of(tmp_path)


def test_whole(sealed: Sealed) -> None:
    found = sealed.verify()
    assert found.whole
    assert found.damaged_blocks == found.parity_damaged == 0
    assert sealed.opened.files[0].blake3 == blake3(sealed.intact).hexdigest()
    repaired, content = sealed.repair()
    assert repaired.whole
    assert content == sealed.intact


def test_any_single_bit(sealed: Sealed) -> None:
    """One bit in every block, and every bit of the first 24 bytes, where the header's length is."""
    seal = sealed.opened
    bits = [*range(24 * 8), *range(24 * 8, 8 * len(sealed.intact), 8 * BLOCK + 3), 8 * len(sealed.intact) - 1]
    for bit in bits:
        sealed.flip(bit)
        found = verify_with_seal(sealed.model, seal)
        assert [block.number for block in found.files[0].damaged] == [bit // 8 // BLOCK], bit
        assert found.recoverable_blocks == 1
        repaired, content = sealed.repair()
        assert repaired.whole
        assert content == sealed.intact, bit


def test_one_block_is_the_whole_file(tmp_path: Path) -> None:
    """A flip in a file of one block leaves no block that fits, and is damage all the same."""
    sealed = seal_of(tmp_path, block=1 << 16)
    assert sealed.opened.files[0].grid.blocks == 1
    for bit in (3, 100, 8 * len(sealed.intact) - 1):
        sealed.flip(bit)
        assert sealed.damaged() == [0]
        assert sealed.repair()[1] == sealed.intact


@pytest.mark.parametrize("parity", [1, 2, 5])
def test_up_to_the_parity_of_every_group_and_one_more(tmp_path: Path, parity: int) -> None:
    sealed = seal_of(tmp_path, parity=parity, block=64)
    grid = sealed.opened.files[0].grid
    last = range(grid.blocks - parity * grid.groups, grid.blocks)
    content = bytearray(sealed.intact)
    content[last[0] * 64 :] = bytes(len(content) - last[0] * 64)  # a burst over as many blocks as come back
    sealed.write(content)
    assert sealed.verify().recoverable_blocks == sealed.verify().damaged_blocks == len(last)
    repaired, back = sealed.repair()
    assert back == sealed.intact
    assert set(repaired.files[0].sources.values()) == {"parity"}
    content[(last[0] - 1) * 64] ^= 1  # one more, in the group that the last block of the burst is in
    sealed.write(content)
    repaired, back = sealed.repair()
    assert not repaired.whole
    assert not repaired.files[0].proven
    lost = [block.number for block in repaired.files[0].lost]
    group = (last[0] - 1) % grid.groups
    assert lost == [block for block in range(last[0] - 1, grid.blocks) if block % grid.groups == group]
    kept = [block for block in last if block not in lost]
    for block in kept:
        assert back[block * 64 : (block + 1) * 64] == sealed.intact[block * 64 : (block + 1) * 64]
    for block in lost:
        assert back[block * 64 : (block + 1) * 64] == bytes(content[block * 64 : (block + 1) * 64])


def test_groups_are_interleaved(tmp_path: Path) -> None:
    """A burst of more blocks than the parity of one group comes back whole, wherever it lies."""
    values = torch.randn(300, 64, generator=torch.Generator().manual_seed(3))
    source = tmp_path / "source"
    save_file({"w": values}, source)
    sealed = seal_of(tmp_path, block=64, source=source)
    grid = sealed.opened.files[0].grid
    assert grid.groups > 1
    burst = 64 * grid.groups * 2
    for begin in range(0, len(sealed.intact) - burst, 64 * 97):
        content = bytearray(sealed.intact)
        content[begin : begin + burst] = np.random.default_rng(begin).bytes(burst)
        sealed.write(content)
        assert sealed.repair()[1] == sealed.intact


def test_no_parity_names_damage_and_brings_back_a_header(tmp_path: Path) -> None:
    sealed = seal_of(tmp_path, parity=0)
    header = len(sealed.opened.files[0].header or b"")
    assert header > BLOCK
    content = bytearray(sealed.intact)
    content[: header - 1] = bytes(header - 1)
    sealed.write(content)
    with pytest.raises(CheckpointError):
        Checkpoint.open(sealed.model)
    assert sealed.verify().recoverable_blocks == sealed.verify().damaged_blocks == -(-header // BLOCK)
    repaired, back = sealed.repair()
    assert repaired.whole
    assert back == sealed.intact
    assert set(repaired.files[0].sources.values()) == {"header"}
    sealed.flip(8 * len(sealed.intact) - 8)
    repaired, back = sealed.repair()
    assert not repaired.whole
    assert back == sealed.model.read_bytes()


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -BLOCK, -3 * BLOCK])
def test_truncated(sealed: Sealed, kept: int) -> None:
    content = sealed.intact[:kept] if kept else b""
    sealed.write(content)
    found = sealed.verify()
    assert not found.whole
    assert found.files[0].found_bytes == len(content)
    repaired, back = sealed.repair(reference=None)
    assert len(back) == len(sealed.intact)
    assert repaired.whole == (back == sealed.intact)
    assert repaired.whole == (kept in (-1, -BLOCK))


def test_longer_than_it_was(sealed: Sealed) -> None:
    sealed.write(sealed.intact + b"x")
    found = sealed.verify()
    assert not found.whole
    assert not found.damaged_blocks
    assert sealed.repair()[1] == sealed.intact


def test_a_reference_gives_what_parity_cannot(sealed: Sealed) -> None:
    reference = sealed.folder / "copy.safetensors"
    blocks = sealed.opened.files[0].grid.blocks
    sealed.damage(*range(blocks - 8, blocks))
    content = bytearray(sealed.intact)
    content[BLOCK * (blocks - 2)] ^= 1  # the reference is damaged, too
    reference.write_bytes(content)
    repaired, back = sealed.repair(reference=reference)
    assert back == sealed.intact
    sources = repaired.files[0].sources
    assert sources[blocks - 2] == "parity"
    assert sources[blocks - 3] == "reference"
    reference.write_bytes(bytes(len(sealed.intact)))  # is none: nothing of it is taken
    repaired, back = sealed.repair(reference=reference)
    assert not repaired.whole
    assert back == sealed.model.read_bytes()


def test_what_lies_in_a_block(sealed: Sealed) -> None:
    info = Checkpoint.open(sealed.model).info("fc.weight")
    for element in (0, 71, 72, 719):
        sealed.write(sealed.intact)
        sealed.flip(8 * (info.offset + 4 * element))
        (block,) = sealed.verify().files[0].damaged
        (part,) = [part for part in block.parts if part.tensor == "fc.weight"]
        assert part.first <= element < part.last
        assert part.rows == (part.first // 72, (part.last - 1) // 72 + 1)
        assert 4 * (part.last - part.first) <= BLOCK
    sealed.flip(0)
    assert [part.kind for part in sealed.verify().files[0].damaged[0].parts] == ["header"]


def test_parts_add_up_to_the_file(tmp_path: Path) -> None:
    """Every element of every tensor lies in a block; tensors without elements lie nowhere."""
    source = tmp_path / "source"
    tensors = {"a": torch.randn(7, 5), "empty": torch.zeros(0, 4), "none": torch.zeros(3, 0, 2), "b": torch.ones(1)}
    save_file({**tensors, "c": torch.zeros(77, dtype=torch.uint8)}, source)
    sealed = seal_of(tmp_path, block=64, source=source)
    seen: dict[str | None, int] = {}
    whole = bytes(byte ^ 255 for byte in sealed.intact)
    header = len(sealed.opened.files[0].header or b"")
    sealed.write(sealed.intact[:header] + whole[header:])
    for block in sealed.verify().files[0].damaged:
        for part in block.parts:
            seen[part.tensor] = seen.get(part.tensor, 0) + part.last - part.first
    elements = {"a": 35, "b": 1, "c": 77}
    assert {name: count for name, count in seen.items() if name in elements} == elements
    assert not {"empty", "none"} & seen.keys()
    sealed.flip(8 * header + 5)
    assert sealed.repair()[1] == sealed.intact


def test_only_empty_tensors(tmp_path: Path) -> None:
    source = tmp_path / "source"
    save_file({"empty": torch.zeros(0, 4)}, source)
    sealed = seal_of(tmp_path, source=source)
    assert sealed.verify().whole
    sealed.flip(70)
    assert sealed.repair()[1] == sealed.intact


@pytest.mark.parametrize("form", ["directory", "index", "one file in a directory"])
def test_shards_and_directories(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "m"
    in_a_directory(folder) if form == "one file in a directory" else sharded(folder)
    model = folder / "model.safetensors.index.json" if form == "index" else folder
    seal_path = default_seal(model)
    write_seal(Checkpoint.open(model), seal_path, parity=2, block=64)
    seal = Seal.open(seal_path)
    intact = digests(folder)
    assert verify_with_seal(model, seal).whole
    damaged = [folder / one.name for one in seal.files]
    for file in damaged:  # of shards, in the index as well
        content = bytearray(file.read_bytes())
        content[0] ^= 1
        content[-70] ^= 128
        file.write_bytes(content)
    found = verify_with_seal(model, seal)
    assert [len(one.damaged) for one in found.files] == [2] * len(damaged)
    before = digests(folder)
    repaired = repair_with_seal(model, seal, tmp_path / "out")
    assert repaired.whole
    assert digests(tmp_path / "out") == {name: content for name, content in intact.items() if ".seal" not in name}
    assert digests(folder) == before


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    write_seal(Checkpoint.open(folder), tmp_path / "seal", parity=2, block=64)
    seal = Seal.open(tmp_path / "seal")
    copy = sharded(tmp_path / "copy")
    (folder / "model-1.safetensors").unlink()
    found = verify_with_seal(folder, seal)
    assert not found.whole
    assert found.files[0].found_bytes is None
    assert len(found.files[0].damaged) == seal.files[0].grid.blocks
    assert not repair_with_seal(folder, seal, tmp_path / "some").whole
    repaired = repair_with_seal(folder, seal, tmp_path / "all", reference=copy)
    assert repaired.whole
    assert digests(tmp_path / "all") == digests(copy)


def test_a_folder_without_any_of_the_files(tmp_path: Path) -> None:
    write_seal(Checkpoint.open(sharded(tmp_path / "m")), tmp_path / "seal", parity=0)
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="holds none of the files"):
        verify_with_seal(tmp_path / "other", Seal.open(tmp_path / "seal"))
    with pytest.raises(CheckpointError, match="is one file"):
        verify_with_seal(tmp_path / "m" / "model-1.safetensors", Seal.open(tmp_path / "seal"))
    with pytest.raises(CheckpointError, match="no such file"):
        verify_with_seal(tmp_path / "nowhere", Seal.open(tmp_path / "seal"))


def test_progress_adds_up(sealed: Sealed) -> None:
    done: list[int] = []
    checkpoint = Checkpoint.open(sealed.model)
    write_seal(checkpoint, sealed.folder / "s", parity=2, block=64, progress=done.append)
    assert sealed_bytes(checkpoint, 2) <= sum(done) < sealed_bytes(checkpoint, 2) + 64
    done.clear()
    verify_with_seal(sealed.model, sealed.opened, progress=done.append)
    assert sum(done) == len(sealed.intact)


@pytest.mark.parametrize(("parity", "block"), [(-1, None), (129, None), (2, 63), (2, (1 << 20) + 1)])
def test_what_cannot_be_asked_for(sealed: Sealed, parity: int, block: int | None) -> None:
    with pytest.raises(UsageError):
        write_seal(Checkpoint.open(sealed.model), sealed.folder / "s", parity=parity, block=block)
    assert not (sealed.folder / "s").exists()


def test_inputs_are_never_changed(sealed: Sealed) -> None:
    checkpoint, seal = Checkpoint.open(sealed.model), sealed.opened
    with pytest.raises(OutputError, match="inputs are never changed"):
        write_seal(checkpoint, sealed.model, force=True)
    with pytest.raises(OutputError, match="exists already"):
        write_seal(checkpoint, sealed.seal)
    for output in (sealed.model, sealed.seal):
        with pytest.raises(OutputError, match="inputs are never changed"):
            repair_with_seal(sealed.model, seal, output, force=True)
    assert sealed.model.read_bytes() == sealed.intact


def test_a_real_checkpoint(tmp_path: Path, data_dir: Path) -> None:
    """Random flips at the rate that the seal reaches to, over the whole file."""
    sealed = seal_of(tmp_path, block=None, parity=16, source=data_dir / "cifar10" / "resnet20.safetensors")
    content = np.frombuffer(sealed.intact, np.uint8).copy()
    places = np.random.default_rng(5).choice(8 * len(content), 20, replace=False)
    np.bitwise_xor.at(content, places // 8, (1 << places % 8).astype(np.uint8))
    sealed.write(content.tobytes())
    assert sealed.verify().recoverable_blocks == len(set((places // 8 // 4096).tolist()))
    assert sealed.repair()[1] == sealed.intact
