"""What `where` found, as a report shows it: from the run itself, or from what its store keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from faultcli.campaign.plan import Plan
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.store import Store, StoreError
from faultcli.faults.one_bit import AnyBit
from faultcli.report.document import json_text
from faultcli.report.heat_map import HeatMap
from faultcli.report.numbers import inputs_text, percent
from faultcli.report.text import counted
from faultcli.report.where_rows import where_rows
from faultcli.where.running import WHERE_SCHEMA


@dataclass(frozen=True)
class WhereReport:
    """A document of schema `faultcli.where/1`, and where its numbers come from."""

    document: Mapping[str, Any]
    plan: Plan
    provenance: Provenance | None = None

    @property
    def inputs(self) -> int:
        """How many inputs there are."""
        return int(self.document["inputs"])

    @property
    def plan_hash(self) -> str:
        """Of the plan."""
        return str(self.document["plan_hash"])

    @cached_property
    def map(self) -> HeatMap:
        """The map of layers by bits."""
        return HeatMap.of(where_rows(self.document))

    @cached_property
    def caption(self) -> list[str]:
        """What the whole is like, what it rests on, and what was asked, as lines of text."""
        found, whole = self.document, self.map.whole
        confidence, means = percent(float(found["confidence"]), 0), found["means"]
        text = (
            f"{found['format']}, {found['protect']}: of {int(found['bits']):,} single flips {whole.text} % are critical"
        )
        if whole.mean is None:
            text = f"{found['format']}, {found['protect']}: the pilot is not finished, so nothing is said of the whole"
        elif means is not None:
            sdc, due = (percent(float(means[name]), 2) for name in ("sdc", "due"))
            text += f" (SDC {sdc} %, DUE {due} %, accuracy {percent(-float(means['drop']), 2)} points)"
        lines = [f"{text}; from {counted(whole.trials, 'flip')} on {inputs_text(self)}."]
        if self.provenance is not None:
            lines.append(f"{self.provenance.model} on {self.provenance.data}.")
        asked = {"the whole": found["half_width"], "every stratum": found["stratum_half_width"]}
        widths = [f"{name} to ± {100 * float(width):g} points" for name, width in asked.items() if width is not None]
        reached = "" if found["reached"] else ", which is not reached"
        lines.append(f"Critical: {found['critical']}.")
        lines.append(
            f"Intervals of {confidence} %; asked for: {' and '.join(widths) or 'nothing'}{reached}; seed "
            f"{int(found['seed'])}, plan {self.plan_hash[:12]}."
        )
        return lines

    def keep(self, store: Store) -> None:
        """Let a store keep it."""
        store.keep_answer(json_text(self.document))

    @classmethod
    def kept(cls, store: Store) -> WhereReport | None:
        """Return what the last `where` of a store said; None if the store holds a campaign or curves.

        Raises:
            StoreError: no `where` came to its end, or what is kept is damaged.
        """
        plan = store.plan()
        if not plan.arms or not all(isinstance(arm.fault, AnyBit) for arm in plan.arms):
            return None
        text = store.answer
        if text is None:
            problem = f"{store.name}: its `faultcli where` has not come to an end, so it has nothing to show yet"
            raise StoreError(problem, "give that command again: it goes on from the flips that are there")
        try:
            document = json.loads(text, parse_constant=_no_number)
            if document["schema"] != WHERE_SCHEMA:
                raise ValueError("another schema")
            found = cls(document, plan, store.provenance)
            _ = found.map, found.caption
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration):
            problem = f"{store.name}: is damaged, or written by another faultcli: what `where` said is no such document"
            raise StoreError(problem, "give the `where` command again, with this --store") from None
        return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no rate")
