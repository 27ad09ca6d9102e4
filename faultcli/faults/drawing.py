"""Drawing the fault map of one trial: over regions in memory, or region by region as they stream past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from faultcli.errors import FaultError
from faultcli.faults.law import FaultLaw, Region, Site
from faultcli.faults.maps import NO_FAULTS, FaultMap, Layout, WordFaults
from faultcli.faults.sampling import Stream


def draw_faults(law: FaultLaw, regions: Iterable[Region], *, seed: int, trial: int, format_name: str) -> FaultMap:
    """Draw the fault map of one trial over `regions`.

    Raises:
        FaultError: the law covers none of the regions, or asks for more flips than there are bits.
    """
    regions = list(regions)
    quotas = share_out(law, regions, seed=seed, trial=trial)
    faults: dict[str, WordFaults] = {}
    for region in sorted(regions, key=lambda r: r.name):
        drawn = draw_one(law, region, seed=seed, trial=trial, quota=quotas.get(region.name) if quotas else None)
        if len(drawn.words):
            faults[region.name] = drawn
    layout = {region.name: region.layout for region in sorted(regions, key=lambda r: r.name)}
    how = {"format": format_name, "fault": law.spec, "on_values": law.on_values}
    return FaultMap(faults, layout, seed=seed, trial=trial, **how)  # type: ignore[arg-type]


def share_out(law: FaultLaw, regions: Sequence[Site], *, seed: int, trial: int) -> Mapping[str, int] | None:
    """Return how many faults fall on each region where the law fixes their total; None where regions draw alone.

    Raises:
        FaultError: the law covers none of the regions, or asks for more flips than there are bits.
    """
    sites = {r.name: r.layout.words * len(law.eligible(r)) for r in regions if law.covers(r)}
    if not sites:
        raise FaultError(f"{law.spec}: matches none of the selected tensors", "look at their names with `inspect`")
    layouts = {r.name: r.layout for r in regions}

    def stream_of(name: str, purpose: str) -> Stream:
        return _stream(law, name, layouts[name], seed, trial, purpose)

    return law.quotas(sites, stream_of)


def draw_one(law: FaultLaw, region: Region, *, seed: int, trial: int, quota: int | None) -> WordFaults:
    """Draw the faults of one region; `quota` is its part of `share_out`."""
    if not law.covers(region) or region.layout.words == 0:
        return NO_FAULTS
    return law.draw_region(region, _stream(law, region.name, region.layout, seed, trial, "faults"), quota)


def _stream(law: FaultLaw, name: str, layout: Layout, seed: int, trial: int, purpose: str) -> Stream:
    return Stream("faultcli", seed, trial, law.key, name, layout.words, layout.bits, purpose)
