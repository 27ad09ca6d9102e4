"""Small hardened files, for tests."""

from pathlib import Path

from faultcli.checkpoint import Checkpoint
from faultcli.faults.selection import select
from faultcli.hardened.read import Hardened
from faultcli.hardened.write import harden_checkpoint
from faultcli.protect.chain import parse_chain


def hardened(model: Path, format: str, chain: str, output: Path, ber: float | None = None) -> Hardened:
    checkpoint = Checkpoint.open(model)
    names = select(checkpoint.tensors.values())
    harden_checkpoint(checkpoint, output, names=names, format_name=format, chain=parse_chain(chain), ber=ber)
    found = Hardened.of(Checkpoint.open(output))
    assert found is not None
    return found
