"""Late starts of runs on a part of the inputs: values of all inputs are kept, and a run takes those of its own.

What a layer computes of an input can depend on how many others are beside it, and in some kernels on its place among
them: the product of a matrix and a batch does. So values are kept of batches as large as those of the runs, and before
they are used some runs on inputs at random are held to them, bit for bit; where they differ, no run begins or ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from faultcli.live import LiveTensor
from faultcli.workload.inputs import Inputs
from faultcli.workload.late.kept import Kept, Version
from faultcli.workload.late.program import UntraceableError, Values
from faultcli.workload.late.starting import LateStart, Run
from faultcli.workload.metrics import GoldenRun

_HELD = 32  # inputs, at least, whose values are computed once more in the company that runs give them


class RunnableByRows(Protocol):
    """What a late start on some of the inputs has to know of a classifier."""

    model: torch.nn.Module
    device: torch.device
    parameters: dict[str, LiveTensor]
    noise: float | None
    late_bytes: int | None

    def __len__(self) -> int:
        """Return the number of inputs."""

    def answers_to(self, rows: Tensor, batch_size: int, run: Run | None = None) -> Tensor:
        """Return the logits of some inputs."""

    def inference(self) -> AbstractContextManager[None]:
        """Run in evaluation mode, without gradients."""


def filled(rows: Tensor, batch_size: int) -> Tensor:
    """Return the inputs of batches that all have one size: rows [n], and the first of them again at the end."""
    return rows[torch.arange(-(-len(rows) // batch_size) * batch_size) % len(rows)]


class InBatches:
    """A classifier whose runs on all inputs are made as those on a part of them: in batches of one size."""

    def __init__(self, workload: RunnableByRows, batch_size: int) -> None:
        self.workload, self.batch_size = workload, batch_size
        self.model, self.device, self.parameters = workload.model, workload.device, workload.parameters

    @property
    def noise(self) -> float | None:
        return self.workload.noise

    @property
    def late_bytes(self) -> int | None:
        return self.workload.late_bytes

    def __len__(self) -> int:
        return len(self.workload)

    def answers(self, run: Run | None = None) -> Tensor:
        return self.workload.answers_to(torch.arange(len(self)), self.batch_size, run)

    def inference(self) -> AbstractContextManager[None]:
        return self.workload.inference()


class LateRows(LateStart):
    """As `LateStart`, for runs on a few of the inputs, `size` of them, by `answers_to`.

    A run of all inputs pays once the runs so far would have saved as many inputs.

    Args:
        workload: the classifier.
        golden: all answers without faults, in batches of `batch_size`.
        names: the tensors that may change.
        batch_size: of every run.
        size: inputs of a run.
    """

    def __init__(
        self, workload: RunnableByRows, golden: GoldenRun, names: Collection[str], batch_size: int, size: int
    ) -> None:
        self._size = size
        super().__init__(InBatches(workload, batch_size), golden, names)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_size": self._size}

    def _forget(self) -> None:
        super()._forget()
        self._joined: _Joined | None = None

    @property
    def _batches(self) -> InBatches:
        assert isinstance(self._workload, InBatches)
        return self._workload

    @property
    def _worth(self) -> float:
        return len(self._workload) / self._size

    def run_on(self, rows: Tensor, changed: Iterable[str]) -> Run | None:
        """Return how the model is run on some inputs, as `run_with` does.

        Args:
            rows: positions of the inputs, int64 [size].
            changed: tensors that are about to change, by their names in the checkpoint.
        """
        self._rows = filled(rows, self._batches.batch_size)
        return self.run_with(changed)

    def _give_up(self, reason: str) -> None:
        super()._give_up(reason)
        self._joined = None

    def _own(self) -> Callable[[int], Kept]:
        joined, rows, size = self._joined, self._rows, self._batches.batch_size
        assert joined is not None
        return lambda at: joined.of(rows[at : at + size])

    def _keep(self) -> None:
        super()._keep()
        assert self._kept is not None
        self._joined = _Joined(list(self._kept.values()), self._batches.batch_size)
        self._kept = {}  # all is in one piece
        self._check()

    def _check(self) -> None:
        """Hold runs on inputs at random to what is kept, and let go of positions where a value is another one.

        Raises:
            UntraceableError: it is at all of them.
        """
        program, chance, kept = self._program, torch.Generator().manual_seed(0), self._rows
        assert program is not None
        cuts, wrong = {cut.at: cut for cut in self._cuts}, set[int]()
        for _ in range(-(-_HELD // self._size)):
            rows = torch.randperm(len(self._workload), generator=chance)[: self._size].sort().values
            self._rows = filled(rows, self._batches.batch_size)
            own = self._own()

            def run(at: int, batch: Inputs, own: Callable[[int], Kept] = own) -> Any:
                mine = own(at)

                def look(position: int, values: Values) -> bool:
                    if position in cuts and not mine.same(cuts[position], values):
                        wrong.add(position)
                    if position == len(program):
                        live = {node: values[node] for node in program.live[position]}
                        self._ends &= mine.same_output(live)
                    return False

                return program.run({program.input: batch.first}, look=look)[0]

            self._batches.workload.answers_to(rows, self._batches.batch_size, run)
        self._rows, self._cuts = kept, [cut for cut in self._cuts if cut.at not in wrong]
        if not self._cuts:
            raise UntraceableError("what a layer gives to an input depends on its place among others")


class _Joined:
    """Values of the run without faults, of all inputs.

    Args:
        parts: those of its batches, in order; emptied.
        size: of every batch.

    Raises:
        UntraceableError: a value has no row per input.
    """

    def __init__(self, parts: Sequence[Kept], size: int) -> None:
        self._strides: dict[Version | fx.Node, tuple[int, ...]] = {}
        self._values = self._join([part.values for part in parts], size)
        self._output = self._join([part.output for part in parts], size)

    def _join(self, parts: Sequence[dict[Any, Any]], size: int) -> dict[Any, Any]:
        joined = {}
        for key in list(parts[0]):
            values = [part.pop(key) for part in parts]  # let go of, so that no more than one value is there twice
            first = values[0]
            if isinstance(first, Tensor):
                if not all(value.dim() and len(value) == size for value in values):
                    raise UntraceableError(f"keeps a value without a row per input: {key}")
                self._strides[key] = first.stride()
                joined[key] = torch.cat(values)
            elif all(type(value) is type(first) and value == first for value in values):
                joined[key] = first
            else:
                raise UntraceableError(f"keeps a value that differs from batch to batch: {key}")
        return joined

    def of(self, rows: Tensor) -> Kept:
        """Return what is kept of the inputs of a batch."""
        found = Kept()
        found.values = _Taken(lambda key: self._take(key, self._values[key], rows))
        found.output = _Taken(lambda key: self._take(key, self._output[key], rows))
        return found

    def _take(self, key: Any, value: Any, rows: Tensor) -> Any:
        """Return the rows of a value, laid out as it was in its batch."""
        if not isinstance(value, Tensor):
            return value
        with torch.inference_mode(mode=False), torch.no_grad():  # where writing into values is counted
            strides = self._strides[key]
            order = sorted(range(value.dim()), key=lambda axis: -strides[axis])  # as dimensions lie in memory
            some = value.permute(order).index_select(order.index(0), rows.to(value.device))
            taken = some.permute([order.index(axis) for axis in range(value.dim())])
            if taken.stride() == strides:
                return taken
            laid_out = torch.empty_strided(taken.shape, strides, dtype=taken.dtype, device=taken.device)
            return laid_out.copy_(taken)


class _Taken(dict[Any, Any]):
    """Values that are taken when they are asked for."""

    def __init__(self, take: Callable[[Any], Any]) -> None:
        super().__init__()
        self._take = take

    def __missing__(self, key: Any) -> Any:
        self[key] = value = self._take(key)
        return value
