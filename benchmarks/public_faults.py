"""A public list of single-bit faults, replayed here: does each do what its list says?

    python -m benchmarks.public_faults ResNet20_FL.csv resnet20.safetensors cifar10_test1000.npz -o replayed.jsonl

The list has one fault per line, with how many of its images change their top-1 answer (`critical`). Here the same bit
flips, by the package's own memory, patch and late start, on some of the same images; a fault disagrees where these
cannot well be drawn at random from those. What is replayed is kept in -o, and the same command goes on from there;
Ctrl-C shows what there is.

The list is that of cad-polito-it/dnn-benchmarks (ResNet20_FL.csv), which counts an answer of NaNs as class 0.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from faultcli.campaign.bench import Bench, fault_free
from faultcli.campaign.plan import Arm
from faultcli.campaign.subject import Subject
from faultcli.errors import FaultcliError
from faultcli.faults.one_bit import AnyBit, OneBit
from faultcli.protect.chain import UNPROTECTED
from faultcli.workload.metrics import GoldenRun, measure
from faultcli.workload.process import prepare

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of the list's authors
LOUD = 0.01  # part of the images; of faults that change more in the list, all are replayed
OVERFLOWS = 1e30  # a logit beyond which sums in another order may be infinite
CLOSE = 1e-4  # of the top logit: a lead that rounding may take away


@dataclass(frozen=True)
class PublicFault:
    """A line of the list: a bit of a weight, and how many of `images` change their answer."""

    number: int
    tensor: str
    index: tuple[int, ...]
    bit: int
    critical: int
    images: int


@dataclass(frozen=True)
class Replayed:
    """The same fault here. `sdc`, `due`: as everywhere in this package; `as_listed`: answers that change where a NaN
    is the greatest logit of all and the first of them the answer; `overflow`: rows with an infinite logit and no NaN;
    `close`: rows whose first two logits are nearly or just the same; `most`: the largest finite logit's magnitude."""

    number: int
    images: int
    sdc: int
    due: int
    as_listed: int
    overflow: int
    close: int
    most: float


def read_list(path: Path) -> list[PublicFault]:
    """Read a list of faults.

    Raises:
        ValueError: a line is not of such a list.
    """
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [
                PublicFault(
                    int(row["Injection"]),
                    f"{row['Layer']}.weight",
                    tuple(int(i) for i in literal_eval(row["TensorIndex"])),
                    int(row["Bit"]),
                    int(row["critical"]),
                    int(row["n_injections"]),
                )
                for row in csv.DictReader(file)
            ]
        except (KeyError, TypeError, SyntaxError) as error:
            raise ValueError(f"{path}: is no list of single-bit faults ({error})") from None


def chosen(faults: Sequence[PublicFault], count: int, seed: int) -> list[PublicFault]:
    """Return every loud fault, then `count` of the others, in random order; more of them begin with the same ones."""
    mixed = [faults[i] for i in np.random.default_rng(seed).permutation(len(faults))]
    return [*filter(loud, mixed), *[fault for fault in mixed if not loud(fault)][:count]]


def loud(fault: PublicFault) -> bool:
    """Whether a fault changes more than `LOUD` of the images in the list."""
    return fault.critical > LOUD * fault.images


def replay(subject: Subject, faults: Sequence[PublicFault]) -> Iterator[Replayed]:
    """Flip each bit by itself, and yield what became of the answers.

    Raises:
        ValueError: the network has no such weight.
    """
    workload = subject.classifier("public_faults")
    bench = Bench.set_up(subject, {0: Arm("native", AnyBit(), UNPROTECTED)}, fault_free(workload), seed=0)
    golden = bench.stored.golden
    assert isinstance(golden, GoldenRun)
    for fault in faults:
        if fault.tensor not in subject.tensors:
            raise ValueError(f"fault {fault.number}: the network has no {fault.tensor}")
        word = int(np.ravel_multi_index(fault.index, tuple(subject.tensors[fault.tensor].shape)))
        patch = bench.image.patch(bench.image.draw(OneBit(fault.tensor, word, fault.bit), seed=0, trial=fault.number))
        run = None if bench.late is None else bench.late.run_with(patch.elements)
        with patch.applied(workload.parameters):
            logits = workload.answers(run)
        outcome = measure(logits, workload.labels, golden)
        assert outcome.sdc is not None
        top = logits.topk(2).values
        yield Replayed(
            fault.number,
            outcome.n,
            outcome.sdc,
            outcome.due,
            int((as_listed(logits) != golden.top1).sum()),
            int((logits.isinf().any(1) & ~logits.isnan().any(1)).sum()),
            int((top[:, 0] - top[:, 1] <= CLOSE * top[:, 0].abs()).sum()),
            float(logits.abs().nan_to_num(0.0, 0.0).max()),
        )


def as_listed(logits: Tensor) -> Tensor:
    """Return the answers [N] to logits [N, K] where a NaN is greater than any number, and the first one counts."""
    nan = logits.isnan()
    ranked = torch.where(nan.any(1, keepdim=True), nan.to(logits.dtype), logits)
    return torch.from_numpy(ranked.cpu().numpy().argmax(1))  # numpy's is the first of equals


def chance(changed: int, images: int, fault: PublicFault) -> float:
    """Return how likely so few, or so many, of `images` would have changed, whichever is rarer, times two, if they were
    drawn at random from the images of the list."""
    from scipy.stats import hypergeom

    drawn = hypergeom(fault.images, fault.critical, images)
    return float(min(1.0, 2 * min(drawn.cdf(changed), drawn.sf(changed - 1))))


def _by_drawing(images: int, fault: PublicFault) -> float:
    from scipy.stats import hypergeom

    counts = np.arange(images + 1)
    part = hypergeom(fault.images, fault.critical, images).pmf(counts)
    return float(part @ np.abs(counts / images - fault.critical / fault.images))


@dataclass(frozen=True)
class Agreement:
    """Of some faults: correlation of the parts that change, and mean of their absolute differences.

    `by_drawing`: what that mean is expected to be for images drawn at random. `apart`: faults for which `chance` is
    below `error` over the number of faults (Bonferroni). `beyond`: those that change more images here, or leave more as
    they were, than of all images of the list, which these are some of.
    """

    faults: int
    correlation: float | None
    difference: float
    by_drawing: float
    apart: tuple[int, ...]
    beyond: tuple[int, ...]


def agreement(pairs: Sequence[tuple[PublicFault, int, int]], error: float = 0.05) -> Agreement:
    """Compare (fault, images that changed here, of how many)."""
    listed = np.array([fault.critical / fault.images for fault, _, _ in pairs])
    here = np.array([changed / images for _, changed, images in pairs])
    varied = len(pairs) > 1 and listed.std() > 0 and here.std() > 0
    return Agreement(
        len(pairs),
        float(np.corrcoef(listed, here)[0, 1]) if varied else None,
        float(np.abs(listed - here).mean()),
        float(np.mean([_by_drawing(images, fault) for fault, _, images in pairs])),
        tuple(f.number for f, changed, n in pairs if chance(changed, n, f) < error / len(pairs)),
        tuple(f.number for f, changed, n in pairs if changed > f.critical or n - changed > f.images - f.critical),
    )


def explained(fault: PublicFault, here: Replayed, error: float) -> str:
    """Say why a fault disagrees, as far as can be seen."""
    if chance(here.as_listed, here.images, fault) >= error and here.as_listed != here.sdc + here.due:
        return "NaN counts as class 0 in the list"
    if here.due or here.most > OVERFLOWS:
        return "values near the end of float32: which of them overflow depends on the order of sums"
    if here.close:
        return f"{here.close} answers on an edge, which rounding decides"
    return "not explained"


def main() -> int:
    """Replay, and print how far list and package agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", help="as for --data")
    parser.add_argument("--faults", type=int, default=1000, help="beside those of more than 1 %% (default: 1000)")
    parser.add_argument("--no-loud", action="store_true", help="without those of more than 1 %%")
    parser.add_argument("--seed", type=int, default=0, help="of which ones")
    parser.add_argument("--limit", type=int, help="so many images only")
    parser.add_argument("-o", "--output", type=Path, help="where replayed faults are kept, and not run again")
    options = parser.parse_args()
    prepare()
    try:
        faults = chosen(read_list(options.list), options.faults, options.seed)
        faults = [fault for fault in faults if not (options.no_loud and loud(fault))]
        subject = Subject.open(options.model, options.data, limit=options.limit, device="cpu", mean=MEAN, std=STD)
        replayed = _kept(options.output, len(subject.workload))
        missing = [fault for fault in faults if fault.number not in replayed]
        start = time.perf_counter()
        for done, here in enumerate(replay(subject, missing), 1):
            replayed[here.number] = here
            if options.output:
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(here)) + "\n")
            if done % 50 == 0:
                seconds = time.perf_counter() - start
                print(f"{done} of {len(missing)}, {seconds / done:.2f} s each", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        faults = [fault for fault in faults if fault.number in replayed]
    except (ValueError, OSError, FaultcliError) as error:
        print(f"public_faults: {error}", file=sys.stderr)
        return 2
    show(faults, replayed)
    return 0


def show(faults: Sequence[PublicFault], replayed: Mapping[int, Replayed]) -> None:
    """Print one line per group of faults and way of counting, and every disagreement."""
    ways = {"SDC + DUE": lambda here: here.sdc + here.due, "NaN as class 0": lambda here: here.as_listed}
    groups = {
        "all": faults,
        "over 1 %": [fault for fault in faults if loud(fault)],
        "others": [fault for fault in faults if not loud(fault)],
    }
    apart: dict[int, None] = {}
    print("| faults | number | counted | correlation | mean difference, points | by drawing | apart | beyond |")
    print("|---" * 8 + "|")
    for group, members in groups.items():
        for way, count in ways.items():
            if not members:
                continue
            found = agreement([(f, count(replayed[f.number]), replayed[f.number].images) for f in members])
            correlation = "–" if found.correlation is None else f"{found.correlation:.5f}"
            print(
                f"| {group} | {found.faults:,} | {way} | {correlation} | {100 * found.difference:.3f}"
                f" | {100 * found.by_drawing:.3f}"
                f" | {len(found.apart)} | {len(found.beyond)} |"
            )
            apart |= dict.fromkeys((*found.apart, *found.beyond))
    by_number = {fault.number: fault for fault in faults}
    for number in sorted(apart):
        fault, here = by_number[number], replayed[number]
        print(
            f"fault {number}, {fault.tensor}{list(fault.index)} bit {fault.bit}: {fault.critical} of {fault.images:,}"
            f" in the list; of {here.images:,} here {here.sdc} SDC, {here.due} DUE, {here.as_listed} as the list"
            f" counts: {explained(fault, here, 0.05 / len(faults))}"
        )


def _kept(path: Path | None, images: int) -> dict[int, Replayed]:
    if path is None or not path.exists():
        return {}
    found = [Replayed(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if any(one.images != images for one in found):
        raise ValueError(f"{path}: was made with another number of images; name another file")
    return {one.number: one for one in found}


if __name__ == "__main__":
    sys.exit(main())
