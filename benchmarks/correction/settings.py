"""Which network is measured under which faults, and how much of it: one line per row of the tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.correction.logits import Lab, Levels, Sizes
from benchmarks.correction.networks import ALL as ALL_NETWORKS
from benchmarks.correction.networks import Network, given
from faultcli.errors import FaultcliError, unknown_name

_ZERO = "zero:{rho},include={{head}}"
_TRAINED_ZERO, _JUDGED_ZERO = ([_ZERO.format(rho=rho) for rho in level] for level in ((0.5, 0.8, 0.9), (0.7, 0.85)))
BOTH_LAWS = Levels(
    (*(f"gaussian:{sigma}" for sigma in (0.05, 0.1, 0.15)), *_TRAINED_ZERO),
    (*(f"gaussian:{sigma}" for sigma in (0.05, 0.07, 0.12)), *_JUDGED_ZERO),
)
HEAD_ONLY = Levels(tuple(_TRAINED_ZERO), tuple(_JUDGED_ZERO))
FLIPS = Levels(*(("bitflip:3e-5", "bitflip:1e-4", "bitflip:2e-4"),) * 2, format="q2.5")

MNIST = Sizes(training=4000, pool=12_000, test=2500, training_maps=6, maps=20, mixed_maps=4, largest=5000, known_maps=0)
CIFAR = Sizes(training=3000, pool=2000, test=1000, training_maps=6, maps=20, mixed_maps=4, largest=1000, known_maps=0)
COMPARED = ("cnn", "mlp-deep")  # where all methods are compared, and known damage is looked at: minutes more
FEWER = replace(CIFAR, training=2000, maps=8, mixed_maps=0)  # where every map is a run through a large network
QUICK = Sizes(
    training=600, pool=600, test=200, training_maps=2, maps=2, mixed_maps=1, largest=300, known_maps=1, window=250
)


@dataclass(frozen=True)
class Setting:
    """A row of networks in the tables."""

    network: Network
    levels: Levels
    sizes: Sizes

    @property
    def name(self) -> str:
        memory = "" if self.levels.format == "native" else f", {self.levels.format}"
        return f"{self.network.name}{memory}"

    def lab(self, directory: Path, kept: Path) -> Lab:
        return Lab(self.network, self.levels, self.sizes, directory, kept)


def settings_of(network: Network) -> tuple[Setting, ...]:
    """Return what it is measured under. Large ones: faults of the last layer, whose inputs are worked out once."""
    if network.data == "mnist":
        return (Setting(network, BOTH_LAWS, replace(MNIST, known_maps=3 if network.name in COMPARED else 0)),)
    if not network.name.startswith("resnet"):
        return (Setting(network, BOTH_LAWS, CIFAR),)
    head = Setting(network, HEAD_ONLY, CIFAR)
    developed_with = replace(network, role="development")  # under flips
    return (head, Setting(developed_with, FLIPS, FEWER)) if network.name == "resnet20" else (head,)


def chosen(names: Sequence[str], *, quick: bool) -> list[Setting]:
    """Return the settings of some networks, by name or as checkpoints, all that have a name if none is given.

    Raises:
        UsageError: no network is called so, or a checkpoint is none that can be measured.
    """
    networks = [_network(name) for name in names] or list(ALL_NETWORKS)
    found = [setting for network in networks for setting in settings_of(network)]
    return [replace(setting, sizes=QUICK) for setting in found] if quick else found


def _network(name: str) -> Network:
    if Path(name).suffix == ".safetensors":
        return given(Path(name))
    by_name = {network.name: network for network in ALL_NETWORKS}
    if name not in by_name:
        raise unknown_name("network", name, by_name)
    return by_name[name]


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return the command line that the programs have in common."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("network", nargs="*")
    parser.add_argument("--kept", type=Path, default=Path("correction-runs"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only-kept", action="store_true", help="print what was measured; measure nothing")
    return parser


def asked(names: Sequence[str], *, quick: bool) -> list[Setting]:
    """Return `chosen`; what makes no sense ends the program with one line and exit code 2."""
    try:
        return chosen(names, quick=quick)
    except FaultcliError as error:
        print(f"{error.message}: {error.remedy}", file=sys.stderr)
        sys.exit(2)
