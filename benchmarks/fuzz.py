"""Damaged inputs by the thousand: none may end in a traceback, in exit code 3, or in seconds without an answer.

    python -m benchmarks.fuzz --cases 100000 --seed 0          all kinds by turns
    python -m benchmarks.fuzz --cases 2000 --kind corrector    one of them

Case number N of a seed and a kind is the same damage to the same file, and the same command, every time. A failing case
says its number, and its file and output are kept with --keep DIR; `--first N --cases 1 --kind K` runs it again. Exit
code 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from unittest import mock

import numpy as np
import typer.main

from benchmarks import mutations as change
from benchmarks.mutations import Damage

ALLOWED = {0, 1, 2, 4}  # done, a gate failed, bad input, inconclusive
SLOW = 20.0  # seconds of computing, after which a command counts as one that does not come back
STUCK = 180.0  # seconds on the clock, likewise: it may wait without computing, and the machine may be busy
MEMORY = 6 << 30  # bytes that a case may reserve above what the process has already
BYTES: tuple[Damage, ...] = (change.bits, change.bits, change.cut, change.splice)
TENSORS: tuple[Damage, ...] = (*BYTES, *[change.header, change.tensor_values, change.tensor_set] * 2)


@dataclass(frozen=True)
class Kind:
    """A kind of input: intact files of it, what damages them, and the commands that read them.

    `{file}` in a command is the damaged file, `{folder}` the folder that it lies in; `-o out` is in a folder that is
    emptied after every case.
    """

    files: tuple[str, ...]  # in the corpus; a folder stands for its first file, with the others beside it
    damages: tuple[Damage, ...]
    commands: tuple[str, ...]
    cells: bool = False  # an SQLite file: its cells are changed, too


def safetensors(*commands: str, files: Sequence[str]) -> Kind:
    return Kind(tuple(files), TENSORS, commands)


DATA = (
    "evaluate {model} --arch digits-cnn --data {file} --limit 8",
    "evaluate {model} --arch digits-cnn --data {file}",
)
CORRECTORS = ("edmn", "edmn-aligned", "align", "mixture", "adaptive", "known")
KINDS: dict[str, Kind] = {
    "store": Kind(
        ("plain.store", "gated.store"),
        BYTES,
        (
            "report {file} -o out/report.md",
            "report {file} -o out/report.html",
            "report {file} -o out/report.xml",
            "report {file} -o out/report.csv",
            "merge {file} -o out/merged.store",
            "campaign {model} --ber 1e-3 --trials 2 --limit 8 --threads 1 --store {file}",
            "campaign {model} --ber 1e-3 --trials 3 --limit 8 --threads 1 --store {file} --plan-only",
        ),
        cells=True,
    ),
    "baseline": Kind(
        ("baseline.json",),
        (*BYTES, *[change.json_text] * 5),
        (
            "campaign {model} --ber 1e-3 --trials 2 --limit 8 --threads 1 --max-drop 0.1 --baseline {file}",
            "campaign {model} --ber 1e-3 --trials 2 --limit 8 --threads 1 --max-drop 0.1 --baseline {file} --plan-only",
        ),
    ),
    "corrector": safetensors(
        "evaluate {model} --limit 200 --window 200 --corrector {file}",
        "campaign {model} --ber 1e-2 --trials 1 --limit 200 --window 200 --threads 1 --corrector {file}",
        files=[f"{name}.corrector" for name in CORRECTORS],
    ),
    "map": safetensors(
        "inject {model} --replay {file} -o out/x.safetensors",
        "inject {model} --fault measured:{file} -o out/x.safetensors",
        "inject {model} --fault measured:{file},place=shift -o out/x.safetensors",
        "campaign {model} --fault measured:{file} --trials 1 --limit 8 --threads 1",
        "campaign {model} --fault measured:{file} --trials 1 --limit 8 --threads 1 --format q2.5",
        files=["native.map", "q2.5.map"],
    ),
    "model": safetensors(
        "inspect {file}",
        "evaluate {file} --arch digits-cnn --limit 8",
        "inject {file} --ber 1e-3 -o out/x.safetensors",
        "scale {file} --factor 2 -o out/x.safetensors",
        "inject {file} --ber 1e-3 --format q2.5 --target any -o out/x.safetensors",
        files=["model.safetensors"],
    ),
    "scaled": safetensors(
        "scale {file} --undo -o out/x.safetensors",
        "inspect {file}",
        "evaluate {file} --arch digits-cnn --limit 8",
        files=["scaled.safetensors"],
    ),
    "hardened": safetensors(
        "inspect {file}",
        "evaluate {file} --arch digits-cnn --limit 8",
        "inject {file} --ber 1e-3 -o out/x.safetensors",
        "repair {file} -o out/x.safetensors",
        "harden {file} --read -o out/x.safetensors",
        "harden {file} --device out/device",
        files=["hardened.safetensors", "groups.hardened.safetensors"],
    ),
    "index": Kind(
        ("shards/model.safetensors.index.json",),
        (*BYTES, *[change.json_text] * 5),
        ("inspect {file}", "inspect {folder}", "inject {folder} --ber 1e-3 -o out/x"),
    ),
    "npz": Kind(("data.npz", "packed.npz"), (*BYTES, *[change.npz_members] * 5), DATA),
    "safetensors": safetensors(*DATA, files=["data.safetensors"]),
    "idx": Kind(
        ("idx/t10k-images-idx3-ubyte", "idx/t10k-labels-idx1-ubyte"),
        (*BYTES, *[change.idx_header] * 3),
        tuple(line.replace("{file}", "mnist:{folder}") for line in DATA),
    ),
    "idx.gz": Kind(
        ("idxgz/t10k-images-idx3-ubyte.gz", "idxgz/t10k-labels-idx1-ubyte.gz"),
        (*BYTES, *[change.within_gzip(damage) for damage in (*BYTES, *[change.idx_header] * 3)]),
        tuple(line.replace("{file}", "mnist:{folder}") for line in DATA),
    ),
    "config": Kind(
        ("config.toml",),
        (*BYTES, *[change.toml_text] * 4),
        ("campaign {model} --config {file} --limit 8 --threads 1 --plan-only", "merge {file} -o out/x --config {file}"),
    ),
    "classes": Kind(
        ("images/classes.csv",), BYTES, ("evaluate {model} --arch digits-cnn --data images:{folder}/i,classes={file}",)
    ),
}


def make_corpus(corpus: Path) -> None:
    """Write the intact files, with the tool itself where it writes them."""
    from safetensors.numpy import load_file, save_file

    from faultcli.workload.demo import demo_checkpoint_path, demo_data_path

    model = corpus / "model.safetensors"
    shutil.copy(demo_checkpoint_path(), model)
    campaign = f"campaign {model} --ber 1e-3 --limit 8 --threads 1 --quiet"
    train = f"train-corrector {model} --fault gaussian:0.3 --maps 1 --report-maps 1 --train-limit 900 --window 200 -q"
    lines = [
        f"{campaign} --trials 2 --store {corpus}/plain.store",
        f"{campaign} --trials 4 --format q2.5,fp16 --max-drop 0.5 --store {corpus}/gated.store",
        f"{campaign} --trials 2 --json {corpus}/baseline.json",
        f"inject {model} --ber 1e-3 -o {corpus}/x --save-faults {corpus}/native.map",
        f"inject {model} --ber 1e-3 --format q2.5 -o {corpus}/y --save-faults {corpus}/q2.5.map",
        f"scale {model} --factor 3 -o {corpus}/scaled.safetensors",
        f"harden {model} --format q2.5 --protect scale=max:channel,inplace=2 -o {corpus}/hardened.safetensors",
        f"harden {model} --format int4-g16 --protect guard,parity -o {corpus}/groups.hardened.safetensors",
        f"{train} --method edmn --epochs 1 --hidden 8 -o {corpus}/edmn.corrector",
        f"{train} --method align -o {corpus}/align.corrector",
        f"{train} --method mixture -o {corpus}/mixture.corrector",
        f"{train} --method adaptive -o {corpus}/adaptive.corrector",
        f"train-corrector {model} --method adaptive --replay {corpus}/q2.5.map --epochs 1 --hidden 8 --window 200 -q "
        f"-o {corpus}/known.corrector",
    ]
    for line in lines:
        code, text = call(line.split())
        if code not in (0, 4):
            raise RuntimeError(f"{line}: exit {code}\n{text}")
    _aligned_edmn(corpus)
    with np.load(demo_data_path()) as archive:
        chosen = archive["is_test"]
        images, labels = archive["images"][chosen][:40], archive["labels"][chosen][:40]
    names = np.array([f"digit {n}" for n in range(10)])
    np.savez(corpus / "data.npz", images=images, labels=labels, class_names=names)
    np.savez_compressed(
        corpus / "packed.npz", inputs=images.astype(np.float32)[:, None] / 16, labels=labels.astype("<u2")
    )
    save_file({"images": images, "labels": labels.astype(np.int64)}, corpus / "data.safetensors")
    for folder, pack, end in (("idx", bytes, ""), ("idxgz", gzip.compress, ".gz")):
        (corpus / folder).mkdir()
        for array, name in ((images, "images-idx3"), (labels, "labels-idx1")):
            head = (0x0800 + array.ndim).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = pack(head + array.astype(np.uint8).tobytes())
            (corpus / folder / f"t10k-{name}-ubyte{end}").write_bytes(content)
    state = load_file(model)
    (corpus / "shards").mkdir()
    parts = {"a.safetensors": sorted(state)[::2], "b.safetensors": sorted(state)[1::2]}
    for shard, tensors in parts.items():
        save_file({name: state[name] for name in tensors}, corpus / "shards" / shard)
    weight_map = ", ".join(f'"{name}": "{shard}"' for shard, tensors in parts.items() for name in tensors)
    (corpus / "shards/model.safetensors.index.json").write_text(f'{{"weight_map": {{{weight_map}}}}}')
    (corpus / "config.toml").write_text('ber = "1e-4"\nformat = "q2.5"\nexclude = ["conv1*", "fc2*"]\nseed = 3\n')
    _images(corpus / "images")


def _aligned_edmn(corpus: Path) -> None:
    """An EDMN on aligned logits, which the command line does not train."""
    from dataclasses import replace

    from faultcli.recover.edmn import Edmn
    from faultcli.recover.file import load_corrector, save_corrector

    plain, align = load_corrector(corpus / "edmn.corrector"), load_corrector(corpus / "align.corrector")
    assert isinstance(plain, Edmn)
    options = replace(plain.options, aligned=True)
    aligned = Edmn(plain.network, align.reference, options, card=plain.card)  # type: ignore[attr-defined]
    save_corrector(aligned, corpus / "edmn-aligned.corrector")


def _images(folder: Path) -> None:
    from PIL import Image

    for number in range(2):
        (folder / "i" / f"n{number}").mkdir(parents=True)
        Image.new("L", (8, 8), 100 * number).save(folder / "i" / f"n{number}" / "a.png")
    (folder / "classes.csv").write_text("index,name,folder\n0,zero,n0\n1,one,n1\n")


class TooSlow(BaseException):
    """Not an Exception, so that no handler of the tool takes it for an error of its own."""


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


# Building all options anew is most of a short command's time.
_BUILT_ONCE = ("typer.main.get_command", functools.cache(typer.main.get_command))


def call(arguments: Sequence[str]) -> tuple[int | str, str]:
    """Run one command in this process; returns its exit code, or `slow` or the exception's name, and what it wrote."""
    from faultcli.cli import run

    written = io.StringIO()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _too_slow)
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written), mock.patch(*_BUILT_ONCE):
        try:
            signal.setitimer(signal.ITIMER_REAL, STUCK)
            signal.setitimer(signal.ITIMER_PROF, SLOW)
            code: int | str = run(arguments)
        except TooSlow:
            code = "slow"
        except BaseException as error:
            code = type(error).__name__
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
    return code, written.getvalue()


def damaged(kind: Kind, source: Path, target: Path, chance: random.Random) -> None:
    """Write a damaged copy of an intact file."""
    if kind.cells and chance.random() < 0.7:
        shutil.copy(source, target)
        change.cells(target, chance)
        return
    data = source.read_bytes()
    for _ in range(chance.choice((1, 1, 1, 2))):
        with contextlib.suppress(Exception):  # twice damaged: the second damage may not find its way about
            data = chance.choice(kind.damages)(data, chance)
    target.write_bytes(data)


def run_case(number: int, seed: int, name: str, corpus: Path, place: Path) -> tuple[list[str], Path, int | str, str]:
    """Run one case: returns command, damaged file, exit code and output."""
    kind, chance = KINDS[name], random.Random(f"{seed}/{name}/{number}")
    source = corpus / chance.choice(kind.files)
    shutil.rmtree(place, ignore_errors=True)
    (place / "out").mkdir(parents=True)
    folder, target = place, place / source.name
    if source.parent != corpus:
        folder = place / source.parent.name
        shutil.copytree(source.parent, folder)
        target = folder / source.name
    elif not target.suffix:
        target = target.with_suffix(".input")
    damaged(kind, source, target, chance)
    places = {"file": str(target), "folder": str(folder), "model": str(corpus / "model.safetensors")}
    arguments = [part.format_map(places) for part in chance.choice(kind.commands).split()]
    before = Path.cwd()
    os.chdir(place)
    try:
        code, text = call(arguments)
    finally:
        os.chdir(before)
    return arguments, target, code, text


@dataclass
class Found:
    """What a run came to."""

    codes: Counter[tuple[str, int | str]]
    bad: list[str]
    slowest: float = 0.0


def fuzz(cases: int, seed: int, names: Sequence[str], keep: Path | None = None, first: int = 0) -> Found:
    """Run so many cases, by turns of the kinds."""
    found = Found(Counter(), [])
    with tempfile.TemporaryDirectory() as temporary, _memory_bound():
        corpus = Path(temporary) / "corpus"
        corpus.mkdir()
        make_corpus(corpus)
        for number in range(first, first + cases):
            name = names[number % len(names)]
            start = time.monotonic()
            arguments, target, code, text = run_case(number, seed, name, corpus, Path(temporary) / "case")
            found.slowest = max(found.slowest, time.monotonic() - start)
            found.codes[name, code] += 1
            if code not in ALLOWED or "Traceback" in text:
                last = [
                    line for line in text.splitlines() if line.strip() and not line.startswith(("faultcli:", "try:"))
                ]
                report = f"case {number} {name} exit {code}: {' '.join(arguments[:1])} {last[-1][:300] if last else ''}"
                found.bad.append(report)
                print(report, flush=True)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(target, keep / f"{number}-{target.name}")
                    (keep / f"{number}.txt").write_text(f"{' '.join(arguments)}\n{text}")
            if (number + 1) % 5000 == 0:
                print(f"{number + 1} cases, {len(found.bad)} bad", flush=True)
    return found


@contextlib.contextmanager
def _memory_bound() -> Iterator[None]:
    """Let a case that asks for much memory fail instead of the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="repeatable; all by default")
    parser.add_argument("--keep", type=Path, help="folder for the files and outputs of failing cases")
    options = parser.parse_args()
    start = time.monotonic()
    found = fuzz(options.cases, options.seed, options.kind or list(KINDS), options.keep, options.first)
    for name in options.kind or KINDS:
        counts = {code: count for (kind, code), count in sorted(found.codes.items(), key=str) if kind == name}
        print(f"{name:12} {sum(counts.values()):7}  " + ", ".join(f"exit {c}: {n}" for c, n in counts.items()))
    seconds = time.monotonic() - start
    print(f"{options.cases} cases in {seconds:.0f} s, slowest {found.slowest:.1f} s, {len(found.bad)} bad")
    return 1 if found.bad else 0


if __name__ == "__main__":
    sys.exit(main())
