"""The few flips that hurt most: found one after the other by gradients, and tried before they are taken.

Progressive bit search (Rakin, He and Fan, "Bit-Flip Attack: Crushing Neural Network with Progressive Bit Search", ICCV
2019), carried over to any number format and to memories behind protections: in every step the gradient of the loss is
taken with the flips so far, the most promising flips of every tensor are tried by a forward pass, and those that hurt
most are kept. It is greedy, so what it finds is a lower bound of what K flips can do.

Three things differ from the paper. The loss is of logits divided by a temperature, since a network that is sure of its
answers has next to no gradient. Every try runs on a few inputs first, and on all of them only if it does much there.
Flips that a code would correct are tried in sets that get past it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from faultcli.campaign.bench import as_stored, fault_free
from faultcli.campaign.statistics import Interval
from faultcli.campaign.statistics.intervals import mean_interval
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap, WordFaults
from faultcli.memory import MemoryImage
from faultcli.protect.chain import Chain
from faultcli.protect.plan_file import Protect, read_chain
from faultcli.where.candidates import Candidate, candidates
from faultcli.where.gradients import CAP, gradients, hurt, telling
from faultcli.where.looked_at import LookedAt, looked_at
from faultcli.where.readings import Reading, StoredBit, with_sites
from faultcli.workload.base import BaseWorkload, Golden
from faultcli.workload.chance import down_to_chance
from faultcli.workload.classifier import Workload
from faultcli.workload.metrics import Outcome

WORST_SCHEMA = "faultcli.worst/1"
_WIDER = 8  # times as many tries before the search gives up
_LOST = 0.999 * CAP  # mean loss at which no right answer is left
_TENSORS = 4  # at the least that a step tries flips of
_KEPT, _GLANCED = 4, 8  # tries that run on all inputs after a glance at a few: so many, and one of so many
COUNTS = (1, 2, 5)  # numbers of flips that are reported, and these times powers of ten


@dataclass(frozen=True)
class Search:
    """How flips are looked for.

    `flips`: how many at the most. `inputs`: that gradients and tries look at. `tries`: flips that a step
    tries. `random_maps`: fault maps of as many random flips that are compared with. `seed`: of the inputs
    and of those.
    """

    flips: int = 10
    inputs: int = 128
    tries: int = 32
    random_maps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--worst", self.flips, 1),
            ("--search-inputs", self.inputs, 1),
            ("--tries", self.tries, 1),
            ("--random-maps", self.random_maps, 0),
        ):
            if value < least:
                raise UsageError(f"{option} {value}: is less than {least}", f"{option} takes {least} or more")


@dataclass(frozen=True)
class NamedFlip:
    """A stored bit that flips.

    `place`: index of the weight in its tensor; None for check words and scales. `code`, `flipped`: the stored word
    before and after. `before`, `after`: what the weight reads, without this step's flips and with them.
    """

    site: StoredBit
    place: tuple[int, ...] | None
    code: int
    flipped: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class WorstStep:
    """Flips that were taken together: one, or as many of a block as get past its correction.

    `total`: flips up to here. `hurt`: of the inputs that were searched on. `outcome`: on the
    inputs that are reported.
    """

    flips: tuple[NamedFlip, ...]
    total: int
    hurt: float
    outcome: Outcome


@dataclass(frozen=True)
class RandomFlips:
    """What as many random flips do: the mean accuracy over fault maps with its interval, and the harmonic mean of a
    language model's perplexity; None for classifiers, and where no map leaves one."""

    flips: int
    accuracy: Interval | None
    perplexity: float | None


@dataclass(frozen=True)
class WorstResult:
    """What was found. `faults`: the flips as a fault map. `searched_on`, `apart`: the inputs of the search, and whether
    they are others than those reported. `temperature`: that logits were divided by in the loss. `no_gradient`: tensors
    at risk in which nothing was looked for. `ended`: why there are fewer flips than were asked for; None if there are
    not."""

    search: Search
    format: str
    chain: Chain
    bits: int
    overhead_bits_per_weight: float
    inputs: int
    searched_on: str
    search_inputs: int
    apart: bool
    temperature: float
    classes: int | None
    original: Outcome
    stored: Outcome
    steps: tuple[WorstStep, ...]
    random: tuple[RandomFlips, ...]
    no_gradient: tuple[str, ...]
    ended: str | None
    faults: FaultMap

    def after(self, flips: int) -> Outcome:
        """Return the outcome of the last step that takes no more than so many flips."""
        within = [step.outcome for step in self.steps if step.total <= flips]
        return within[-1] if within else self.stored

    @property
    def to_chance(self) -> int | None:
        """How many flips leave a classifier no better than chance; None if those that were found do not."""
        for step in self.steps:
            right, n = step.outcome.correct1 or 0, step.outcome.n
            if self.classes and down_to_chance(right, n, self.classes):
                return step.total
        return None


OnStep = Callable[[WorstStep], None]


def counts_to(flips: int) -> list[int]:
    """Return the numbers of flips that are reported: 1, 2, 5, 10, 20, … and the last one."""
    steps = [count * 10**power for power in range(len(str(flips))) for count in COUNTS]
    return [*(count for count in steps if count < flips), flips]


def find_worst(
    subject: Subject,
    search: Search,
    format: str = "native",
    protect: Protect = "none",
    *,
    search_data: str | None = None,
    on_step: OnStep = lambda step: None,
) -> WorstResult:
    """Look for the flips that hurt most.

    Per step: one pass with gradients, O(weights) per bit of a word, and a forward pass per try.

    Args:
        subject: a classifier or language model; in the same state, bit for bit, when this returns or raises.
        search: how.
        format, protect: the memory.
        search_data: inputs to search on, as `--data` takes them; None: see `looked_at`.
        on_step: called after every step.

    Raises:
        UsageError: the model is judged by a score, or the chain depends on a bit-error rate; a tensor is quantised.
        FormatError: a tensor cannot be stored in the format.
        WorkloadError: the model gives no gradients, or does not take the inputs.
    """
    chain = read_chain(protect)
    if chain.needs_ber:
        raise UsageError(
            f"{chain.label}: depends on the bit-error rate, and chosen flips have none",
            "name the rate it is designed for: posterior=P; scale=max or a number instead of scale=auto",
        )
    subject.selection.check_tensors("--worst")
    looking = looked_at(subject, search.inputs, search.seed, search_data)
    image = subject.memory(format, chain)
    original = fault_free(subject.workload, listen=True)
    with as_stored(image, subject.workload, subject.tensors) as differs:
        stored = fault_free(subject.workload) if differs else original
        hunt = _Hunt(subject, image, looking, search)
        steps = []
        for step in hunt.steps(stored.golden):
            steps.append(step)
            on_step(step)
        workload, golden, outcome = subject.workload, stored.golden, stored.outcome
        random = [_random(workload, image, golden, outcome, search, count) for count in counts_to(search.flips)]
    return WorstResult(
        search,
        format,
        chain,
        image.bits,
        image.overhead_bits_per_weight,
        len(subject.workload),
        looking.text,
        len(looking.all),
        looking.apart,
        hunt.temperature,
        subject.workload.classes if isinstance(subject.workload, Workload) else None,
        original.outcome,
        stored.outcome,
        tuple(steps),
        tuple(random),
        tuple(hunt.no_gradient),
        hunt.ended,
        hunt.faults_map(),
    )


class _Hunt:
    """The search itself; the model holds the values as stored.

    Attributes:
        total: flips so far.
        temperature: that logits are divided by; it stays the same, so that losses of steps compare.
        ended: why it ended before all flips were found.
    """

    def __init__(self, subject: Subject, image: MemoryImage, looking: LookedAt, search: Search) -> None:
        self._subject, self._image, self._looking, self._search = subject, image, looking, search
        self._live = subject.workload.parameters
        self._readings = {
            name: Reading(name, tensor, subject.tensors[name].dtype) for name, tensor in image.tensors.items()
        }
        self._faults: dict[str, WordFaults] = {}
        self.total = 0
        self.temperature = telling(looking.all)
        self.ended: str | None = None
        self.no_gradient: list[str] = []

    def faults_map(self) -> FaultMap:
        """Return the flips so far."""
        return self._map(self._faults)

    def _map(self, faults: Mapping[str, WordFaults]) -> FaultMap:
        law, seed = f"worst:{self.total}", self._search.seed
        ordered = {region.name: faults[region.name] for region in self._image.regions if region.name in faults}
        return FaultMap(ordered, self._image.layout, format=self._image.format_name, fault=law, seed=seed)

    def steps(self, golden: Golden) -> Iterator[WorstStep]:
        """Yield one step after the other, until there are as many flips as asked for or none that hurts."""
        now = self._hurt(self._looking.all)
        while self.total < self._search.flips:
            found = self._next(now, self._search.tries) or self._next(now, _WIDER * self._search.tries)
            if found is None:
                self.ended = "no right answer is left" if now >= _LOST else "no flip that was tried hurts more"
                return
            best, now = found
            before = self._faults
            self._faults, self.total = with_sites(before, best.sites), self.total + len(best.sites)
            with self._image.patch(self._map(self._faults)).applied(self._live):
                outcome = self._subject.workload.outcome(golden)
            yield WorstStep(tuple(self._named(best, before)), self.total, now, outcome)

    def _next(self, now: float, tries: int) -> tuple[Candidate, float] | None:
        """Return the flips that hurt most, per flip, of those that are tried, and how much it then hurts."""
        if now >= _LOST:
            return None
        with self._image.patch(self._map(self._faults)).applied(self._live):
            slopes = gradients(self._looking.all, list(self._readings), self.temperature)
            glance = self._hurt(self._looking.some)
        if not self.total:
            self.no_gradient = [name for name in self._readings if name not in slopes]
        left = self._search.flips - self.total
        found: list[Candidate] = []
        for name, slope in slopes.items():
            reading = self._readings[name]
            found += candidates(reading, reading.in_order(slope), self._faults, left, -(-tries // _TENSORS))
        found.sort(key=lambda one: (-one.rank, len(one.sites)))
        del found[tries:]
        gains = []
        for one in found:
            then = self._tried(one, self._looking.some)
            if then >= _LOST and len(one.sites) == 1 and (whole := self._tried(one, self._looking.all)) >= _LOST:
                return one, whole  # nothing hurts more
            gains.append((then - glance) / len(one.sites))
        best: tuple[Candidate, float] | None = None
        gained = 0.0
        for at in sorted(range(len(found)), key=lambda at: -gains[at])[: max(_KEPT, tries // _GLANCED)]:
            then = self._tried(found[at], self._looking.all)
            gain = (then - now) / len(found[at].sites)
            if gain > gained:
                best, gained = (found[at], then), gain
        return best

    def _tried(self, one: Candidate, workload: BaseWorkload) -> float:
        """Return how much it hurts with more flips."""
        with self._image.patch(self._map(with_sites(self._faults, one.sites))).applied(self._live):
            return self._hurt(workload)

    def _hurt(self, workload: BaseWorkload) -> float:
        return hurt(workload, self.temperature)

    def _named(self, taken: Candidate, before: Mapping[str, WordFaults]) -> Iterator[NamedFlip]:
        regions = {region.name: region for region in self._image.regions}
        masks: dict[tuple[str, int], int] = {}
        for name, own in before.items():
            masks |= {(name, int(word)): int(mask) for word, mask in zip(own.words, own.masks, strict=True)}
        after = with_sites(before, taken.sites)
        for site in taken.sites:
            here = site.region, site.word
            code = int(regions[site.region].codes(np.array([site.word]))[0]) ^ masks.get(here, 0)
            masks[here] = masks.get(here, 0) ^ (1 << site.bit)
            reading = self._readings.get(site.region)
            place = was = becomes = None
            if reading is not None:
                place = reading.place(site.word)
                was, becomes = (_value(reading, own, site.word) for own in (before, after))
            yield NamedFlip(site, place, code, code ^ (1 << site.bit), was, becomes)


def _value(reading: Reading, faults: Mapping[str, WordFaults], element: int) -> float:
    index, values = reading.sparse(reading.own(faults))
    at = (index == element).nonzero()
    return float(values[at[0, 0]] if len(at) else reading.clean[element])


def _random(
    workload: BaseWorkload, image: MemoryImage, golden: Golden, stored: Outcome, search: Search, flips: int
) -> RandomFlips:
    """Run as many random flips, in several fault maps."""
    law, found = parse_law(f"flips:{flips}"), list[Outcome]()
    for trial in range(search.random_maps):
        patch = image.patch(image.draw(law, seed=search.seed, trial=trial))
        outcome = stored
        if patch.values_changed:
            with patch.applied(workload.parameters):
                outcome = workload.outcome(golden)
        found.append(outcome)
    probabilities = [outcome.token_probability or 0.0 for outcome in found]
    perplexity = len(found) / sum(probabilities) if any(probabilities) else None
    return RandomFlips(flips, mean_interval([outcome.top1 for outcome in found]), perplexity)
