"""Scaled checkpoints: a file with c·w in place of w, its constants in the metadata, undone to the last byte.

Multiplying by a power of two is exact; by any other factor, c·w and the quotient are rounded, and the quotient may come
out next to w. So what is left over, w minus the quotient in units of the last place, is kept compressed in the
metadata, where only `--undo` needs it: a device that divides by c is off by a unit in the last place at the most, or
has lost what c·w rounded to zero. A factor with which c·w would overflow is refused.

record   what such a file says of itself, and how it reads
writing  writing one, and undoing it
"""

from faultcli.scaling.record import METADATA_KEY, SCHEMA, Scaling, read_state
from faultcli.scaling.writing import ScaledTensor, scale_checkpoint, unscale_checkpoint

__all__ = [
    "METADATA_KEY",
    "SCHEMA",
    "ScaledTensor",
    "Scaling",
    "read_state",
    "scale_checkpoint",
    "unscale_checkpoint",
]
