"""What a store may hold of the one flip of a trial; see `store_checks`."""

from __future__ import annotations

from faultcli.campaign.single_flip import SingleFlip
from faultcli.campaign.store_checks import Damaged, decode, text, whole

_FIELDS = ("region", "word", "bit", "before", "corrected", "detected", "values")
_LONGEST = 60  # characters of a number


def read_flip(cell: object, trial: int, flips: int) -> SingleFlip:
    """Return where the flip of a trial lies.

    Args:
        cell: JSON of `SingleFlip`.
        trial: its number, for messages.
        flips: of the trial.

    Raises:
        Damaged: it cannot be.
    """
    what = f"the flip of trial {trial}"
    found = decode(cell, what)
    if not isinstance(found, dict) or sorted(found) != sorted(_FIELDS):
        raise Damaged(f"{what} does not say where it is")
    if flips != 1:
        raise Damaged(f"trial {trial} has {flips} flips, and one place")
    bit = whole(found["bit"], f"the bit of {what}", 0, 63)
    before = found["before"]
    if type(before) is not int or not 0 <= before < 1 << 64:
        raise Damaged(f"the word of {what} is no word")
    for name in ("corrected", "detected"):
        if type(found[name]) is not bool:
            raise Damaged(f"{what} does not say whether it was {name}")
    values = found["values"]
    if values is not None:
        if not isinstance(values, list) or len(values) != 2:
            raise Damaged(f"the values of {what} are no two")
        values = tuple(text(value, f"a value of {what}")[:_LONGEST] for value in values)
    region = text(found["region"], f"the place of {what}")
    word = whole(found["word"], f"the position of {what}")
    return SingleFlip(region, word, bit, before, found["corrected"], found["detected"], values)
