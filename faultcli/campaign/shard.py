"""Part I of N of a campaign: what one machine of several runs, without talking to the others."""

from __future__ import annotations

import re
from dataclasses import dataclass

from faultcli.errors import UsageError
from faultcli.foreign import whole_number


@dataclass(frozen=True)
class Shard:
    """The trials whose number leaves the remainder `index` (from 0) when divided by `count`."""

    index: int = 0
    count: int = 1

    def trials(self, trials: int) -> range:
        """Return which of so many trials belong to this part."""
        return range(self.index, trials, self.count)


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """Read `I/N`, I from 1 to N.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    index, count = (whole_number(part) or 0 for part in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(
            f"--shard {text}: is no part I/N with I from 1 to N", "try: --shard 1/3, --shard 2/3, --shard 3/3"
        )
    return Shard(index - 1, count)
