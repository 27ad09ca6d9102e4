"""Trials on a GPU against the same trials on the CPU: the tables of benchmarks/gpu.md.

    python -m benchmarks.gpu lenet resnet20 squeezenet mobilenet llama [--trials 8] [--limit N] -o results.md

Fault maps have to be identical; answers may differ by rounding, and the table says by how much. SqueezeNet and
MobileNet need Pillow, MobileNet and the Llama transformers. Without a GPU it compares the CPU with itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import seconds
from faultcli.campaign.bench import Bench, Trial, fault_free
from faultcli.campaign.records import Record
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.memory import MemoryImage
from faultcli.workload.base import BaseWorkload
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload

DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data"))
IMAGES = f"images:{DATA}/imagenet/images,classes={DATA}/imagenet/classes.csv"
FORMAT, FAULT = "int8-channel", "bitflip:1e-4"
LAW = parse_law(FAULT)
STACKS = (4, 16)  # trials evaluated as one batch


class Subject(NamedTuple):
    """A checkpoint and what it runs on."""

    model: str
    data: str


SUBJECTS = {
    "lenet": Subject("mnist/lenet.safetensors", f"mnist:{DATA}/mnist"),
    "resnet20": Subject("cifar10/resnet20.safetensors", str(DATA / "cifar10" / "cifar10_test1000.npz")),
    "squeezenet": Subject("imagenet/squeezenet1_1.safetensors", IMAGES),
    "mobilenet": Subject("imagenet/mobilenet_v2-hf", IMAGES),
    "llama": Subject("stories260k/hf", f"{DATA}/stories260k/eval_tokens.safetensors"),
}


class Lab:
    """One checkpoint in its memory, and trials of it on any device."""

    def __init__(self, name: str, limit: int | None) -> None:
        self.name, self.limit = name, limit
        self.checkpoint = Checkpoint.open(DATA / SUBJECTS[name].model)
        self.state = self.checkpoint.state()
        names = select(self.checkpoint.tensors.values())
        self.image = MemoryImage({name: self.state[name] for name in names}, FORMAT)

    def bench(self, device: str, batch_size: int | None = None) -> Bench:
        """Return the model with the stored values in it, after one run."""
        workload = build_workload(
            self.state,
            self.checkpoint.metadata,
            WorkloadSpec(data=SUBJECTS[self.name].data, limit=self.limit, batch_size=batch_size, device=device),
            directory=self.checkpoint.directory,
            is_directory=self.checkpoint.kind == "directory",
        )
        workload.load(dict(self.image.values()))
        return Bench(workload, self.image, fault_free(workload), 0, {}, {})


def run(bench: Bench, trials: int) -> tuple[list[Record], float]:
    """Return the records, and the median seconds of a trial."""
    bench.run(Trial(0, trials, LAW))  # warm
    times, records = [], []
    for number in range(trials):
        start = time.perf_counter()
        records.append(bench.run(Trial(0, number, LAW)))
        times.append(time.perf_counter() - start)
    return records, sorted(times)[trials // 2]


def host_seconds(bench: Bench, trials: int) -> float:
    """Return the median seconds of drawing a trial's faults, and of applying and undoing the patch."""
    times = []
    for number in range(trials):
        start = time.perf_counter()
        with bench.image.patch(bench.image.draw(LAW, seed=0, trial=number)).applied(bench.workload.parameters):
            pass
        times.append(time.perf_counter() - start)
    return sorted(times)[trials // 2]


def stacked_seconds(workload: Workload, image: MemoryImage, size: int) -> float:
    """Return the seconds per trial of `size` trials evaluated as one batch, the patches not counted."""
    parameters = dict(workload.model.named_parameters())
    stack = {name: torch.stack([p.detach()] * size) for name, p in parameters.items()}
    buffers = dict(workload.model.named_buffers())
    inputs = workload.prepare(workload.dataset).first

    def answer(own: dict[str, Tensor], batch: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(workload.model, {**own, **buffers}, (batch,))
        return found

    def once() -> None:
        with workload.inference():
            for start in range(0, len(inputs), workload.batch_size):
                torch.vmap(answer, in_dims=(0, None))(stack, inputs[start : start + workload.batch_size])

    return timed(once, workload.device) / size


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a call, until the device has done what it asks for."""

    def whole() -> None:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return seconds(whole)


def compare(name: str, trials: int, limit: int | None, device: str) -> list[str]:
    """Return two rows of the tables: agreement and time, and what batches of inputs and of trials bring."""
    lab = Lab(name, limit)
    cpu = lab.bench("cpu")
    here, slow = run(cpu, trials)
    gpu = lab.bench(device)
    there, fast = run(gpu, trials)
    assert [(r.flips, r.values_changed) for r in here] == [(r.flips, r.values_changed) for r in there]
    a, b = (_answers(bench.workload) for bench in (cpu, gpu))
    differ = max(abs(x.outcome.top1 - y.outcome.top1) for x, y in zip(here, there, strict=True))
    again, _ = run(gpu, trials)
    repeats = [r.outcome for r in again] == [r.outcome for r in there]
    host = host_seconds(gpu, trials)
    row = (
        f"| {name} | {len(gpu.workload)} | {1e3 * slow:.1f} | {1e3 * fast:.1f} | {slow / fast:.1f} × "
        f"| {1e3 * host:.1f} | {float((a - b).abs().max()):.1e} | {100 * differ:.2f} | {'yes' if repeats else 'NO'} |"
    )
    return [row, _batches(lab, gpu, trials, device)]


def _answers(workload: BaseWorkload) -> Tensor:
    if isinstance(workload, Workload):
        return workload.logits()
    outcome = workload.outcome()
    return torch.tensor([outcome.loss or 0.0])


def _batches(lab: Lab, gpu: Bench, trials: int, device: str) -> str:
    workload = gpu.workload
    if not isinstance(workload, Workload):
        return f"| {lab.name} | – | – |" + " – |" * len(STACKS)
    whole = lab.bench(device, batch_size=len(workload))
    cells = [f"{workload.batch_size}: {1e3 * timed(workload.answers, workload.device):.2f}"]
    assert isinstance(whole.workload, Workload)
    cells.append(f"{len(workload)}: {1e3 * timed(whole.workload.answers, workload.device):.2f}")
    for size in STACKS:
        try:
            cells.append(f"{1e3 * stacked_seconds(workload, lab.image, size):.2f}")
        except Exception as error:
            cells.append(type(error).__name__)
    return f"| {lab.name} | " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="+", choices=SUBJECTS)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    device = options.device
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    rows = [compare(name, options.trials, options.limit, device) for name in options.subjects]
    text = "\n".join(
        [
            f"{card}; PyTorch {torch.__version__}; CPU with {torch.get_num_threads()} threads; {FORMAT}, {FAULT}\n",
            "| model | inputs | CPU, ms a trial | GPU, ms a trial | CPU / GPU | of it on the host, ms"
            " | largest difference of a logit | largest difference of a trial's top-1, points | repeats exactly |",
            "|" + "---|" * 9,
            *(row for row, _ in rows),
            "",
            "| model | forward pass, ms, in batches of the default size | in one batch"
            + "".join(f" | {size} trials as one batch, ms per trial" for size in STACKS)
            + " |",
            "|" + "---|" * (3 + len(STACKS)),
            *(row for _, row in rows),
        ]
    )
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
