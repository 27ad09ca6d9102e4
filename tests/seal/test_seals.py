"""Seals that are damaged, of another file, of a newer version, or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sealed import BLOCK, Sealed, flip_byte, seal_of, tensor_place

from faultcli.checkpoint import Checkpoint
from faultcli.errors import CheckpointError
from faultcli.report.seal import verification_summary
from faultcli.seal.blocks import BlockGrid, digest
from faultcli.seal.checking import verify_with_seal
from faultcli.seal.making import write_seal
from faultcli.seal.record import RECORD, RECORD_CHECKSUM, Seal


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return seal_of(tmp_path)


def rewritten(seal: Path, text: str, checksum: str | None = None) -> Path:
    """A seal with another record."""
    target = seal.with_name("other.seal")
    metadata = {RECORD: text, RECORD_CHECKSUM: checksum or digest(text.encode()).hex()}
    save_file(load_file(seal), target, metadata)
    return target


def record_of(seal: Path) -> dict[str, object]:
    return dict(json.loads(Checkpoint.open(seal).metadata[RECORD]))


def test_every_byte_of_a_seal_counts(sealed: Sealed) -> None:
    """A flip anywhere in a seal is found: it is refused, or its parity block is left out. Nothing is believed of it."""
    intact = sealed.seal.read_bytes()
    parity, parity_bytes = tensor_place(sealed.seal, "0.parity.00000000")
    proofs, proofs_bytes = tensor_place(sealed.seal, "0.parity_blocks")
    whole = sealed.opened
    refused = left_out = 0
    for at in range(0, len(intact), 7):
        flip_byte(sealed.seal, at)
        of_parity = parity <= at < parity + parity_bytes or proofs <= at < proofs + proofs_bytes
        if _refused(sealed.seal):
            refused += 1
            assert not of_parity, at
        else:
            seal = Seal.open(sealed.seal)
            found = verify_with_seal(sealed.model, seal)
            assert found.whole
            if found.parity_damaged:
                left_out += 1
            else:  # the padding of its header, or a key of its metadata that nobody reads
                assert [one.hashes.tobytes() for one in seal.files] == [one.hashes.tobytes() for one in whole.files]
                assert not of_parity, at
        sealed.seal.write_bytes(intact)
    assert refused > 50
    assert left_out > 10


def test_damaged_parity_is_left_out(sealed: Sealed) -> None:
    begin, _ = tensor_place(sealed.seal, "0.parity.00000000")
    flip_byte(sealed.seal, begin)  # the first of two parity blocks
    sealed.damage(5)
    found = sealed.verify()
    assert found.parity_damaged == 1
    assert found.recoverable_blocks == 1
    assert sealed.repair()[1] == sealed.intact
    sealed.damage(6)
    assert sealed.verify().recoverable_blocks == 0
    repaired, content = sealed.repair()
    assert not repaired.whole
    assert content == sealed.model.read_bytes()


def test_checksums_of_parity_that_are_damaged(sealed: Sealed) -> None:
    begin, _ = tensor_place(sealed.seal, "0.parity_blocks")
    flip_byte(sealed.seal, begin)
    sealed.damage(5)
    assert sealed.damaged() == [5]
    assert sealed.verify().parity_damaged == 1  # the block that it proves is left out, the other one helps
    assert sealed.repair()[0].whole


@pytest.mark.parametrize("part", ["0.blocks", "0.header"])
def test_damaged_checksums_are_refused(sealed: Sealed, part: str) -> None:
    begin, count = tensor_place(sealed.seal, part)
    for at in (begin, begin + count - 1):
        flip_byte(sealed.seal, at)
        with pytest.raises(CheckpointError, match="the seal itself is damaged"):
            Seal.open(sealed.seal)
        flip_byte(sealed.seal, at)
    assert Seal.open(sealed.seal)


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_truncated_seals_are_refused(sealed: Sealed, kept: int) -> None:
    sealed.seal.write_bytes(sealed.seal.read_bytes()[:kept] if kept else b"")
    with pytest.raises(CheckpointError, match="no seal, or a damaged one"):
        Seal.open(sealed.seal)


def test_a_newer_seal(sealed: Sealed) -> None:
    text = json.dumps({**record_of(sealed.seal), "schema": "faultcli.seal/2"})
    with pytest.raises(CheckpointError, match="another version") as raised:
        Seal.open(rewritten(sealed.seal, text))
    assert "make a new seal" in str(raised.value.remedy)


def test_a_record_that_lies(sealed: Sealed) -> None:
    """Its checksum fits, its content makes no sense: refused, and no traceback."""
    record = record_of(sealed.seal)
    (file,) = record["files"]  # type: ignore[misc]
    lies = [{**file, key: value} for key in file for value in (None, -1, 0, 1 << 70, "x", [])]
    lies += [{key: value for key, value in file.items() if key != left_out} for left_out in file]
    sound = [{**file, "name": "x"}, {**file, "header_blake3": None}]
    for lie in lies:
        assert _refused(rewritten(sealed.seal, json.dumps({**record, "files": [lie]}))) != (lie in sound), lie
    records = [{**record, "files": value} for value in (None, 3, [], [3], "x")]
    records += [{**record, "parity": value} for value in (None, "x", -1, 1000)]
    for lie in records:
        assert _refused(rewritten(sealed.seal, json.dumps(lie))), lie
    for text in ("", "[]", "3", "{", "null", '{"schema": 3}', '{"schema": "else/1"}'):
        assert _refused(rewritten(sealed.seal, text))
    assert _refused(rewritten(sealed.seal, json.dumps(record), "0" * 64))


def _refused(path: Path) -> bool:
    try:
        Seal.open(path)
    except CheckpointError as error:
        return error.remedy is not None
    return False


def test_no_seal(sealed: Sealed, tmp_path: Path) -> None:
    for path in (sealed.model, tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError):
            Seal.open(path)


def test_the_seal_of_another_file(sealed: Sealed, data_dir: Path) -> None:
    others = seal_of(_folder(sealed, "other"), source=data_dir / "cifar10" / "resnet20.safetensors")
    with pytest.raises(CheckpointError, match="another file") as raised:
        verify_with_seal(sealed.model, others.opened)
    assert "--seal" in str(raised.value.remedy)


def test_the_seal_of_the_same_network_trained_otherwise(sealed: Sealed) -> None:
    """The headers are alike to the byte, and no block is: that may be damage throughout, so both are said."""
    folder = _folder(sealed, "other")
    other = seal_of(folder)
    state = {name: torch.randn_like(value) if value.is_floating_point() else value
             for name, value in load_file(other.model).items()}  # fmt: skip
    state["steps"] = torch.tensor(54321)
    save_file(state, other.model, {"format": "pt", "note": "keep mé"})
    write_seal(Checkpoint.open(other.model), folder / "s", parity=2, block=BLOCK)
    assert len(other.model.read_bytes()) == len(sealed.intact)
    found = verify_with_seal(sealed.model, Seal.open(folder / "s"))
    assert found.throughout
    assert any("another model of the same shape" in line for line in verification_summary(found))
    assert not sealed.verify().throughout


def _folder(sealed: Sealed, name: str) -> Path:
    folder = sealed.folder / name
    folder.mkdir()
    return folder


def test_same_checkpoint_same_seal(sealed: Sealed) -> None:
    shutil.copy(sealed.seal, sealed.folder / "first")
    write_seal(Checkpoint.open(sealed.model), sealed.seal, parity=2, block=BLOCK, force=True)
    assert sealed.seal.read_bytes() == (sealed.folder / "first").read_bytes()


@pytest.mark.parametrize("nbytes", [1, 63, 64, 65, 1000, 5_000_000, 80 << 30])
@pytest.mark.parametrize("parity", [0, 1, 128])
@pytest.mark.parametrize("block", [None, 64, 1 << 20])
def test_every_block_is_in_one_group(nbytes: int, parity: int, block: int | None) -> None:
    if block == 64:
        nbytes >>= 8 if nbytes > 1 << 30 else 0  # as many groups as the largest file has, and not millions
    grid = BlockGrid.of(nbytes, block, parity)
    assert grid.consistent
    assert sum(map(grid.rows, range(grid.groups))) == grid.blocks
    assert all(0 < grid.rows(group) <= 256 - parity for group in (0, grid.groups - 1))
    assert [len(grid.members(group)) for group in (0, grid.groups - 1)] == [
        grid.rows(group) for group in (0, grid.groups - 1)
    ]
    assert grid.end(grid.blocks - 1) == nbytes
