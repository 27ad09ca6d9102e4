"""Late starts of a classifier: when it is worth keeping values of its golden run, and the runs that use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from faultcli.live import LiveTensor, views
from faultcli.workload.inputs import Inputs
from faultcli.workload.late.kept import PLAIN, Cut, Kept, Sight, chosen, same_bits
from faultcli.workload.late.program import Program, UntraceableError, Values, hooked
from faultcli.workload.late.room import bytes_for
from faultcli.workload.metrics import GoldenRun

Run = Callable[[int, Inputs], Any]  # where a batch starts, and the batch; what the model returns for it


class Runnable(Protocol):
    """What a late start has to know of a classifier."""

    model: torch.nn.Module
    device: torch.device
    parameters: dict[str, LiveTensor]

    @property
    def noise(self) -> float | None:
        """Return how much answers vary by themselves."""

    @property
    def late_bytes(self) -> int | None:
        """Return how many bytes may be kept; None: as many as are free."""

    def __len__(self) -> int:
        """Return the number of inputs."""

    def answers(self, run: Run | None = None) -> Tensor:
        """Return the logits."""

    def inference(self) -> AbstractContextManager[None]:
        """Run in evaluation mode, without gradients."""


class LateStart:
    """Runs of a model of which a few tensors have changed since its golden run.

    A run begins at the last position of which values are kept and before which no changed tensor is read, and ends with
    the golden answer where nothing differs from the golden run any more, bit for bit. All else is computed as always,
    by the same kernels on the same batches, so that no answer depends on any of this.

    Nothing is kept before the runs so far would have saved one whole run, so that runs which begin at the first layer
    cost nothing more. Values are kept in this process: who gets it by pickle, keeps its own.

    Args:
        workload: the classifier.
        golden: of the tensors as they are whenever `run_with` is called.
        names: the tensors that may change, by their names in the checkpoint.

    Attributes:
        reason: why every run is a full one; None: that is not so, or not known yet.
        late: batches that began late, and those that ended early.
    """

    def __init__(self, workload: Runnable, golden: GoldenRun, names: Collection[str]) -> None:
        self._workload, self._golden, self._names = workload, golden, tuple(names)
        self._forget()

    def _forget(self) -> None:
        self.reason: str | None = None
        self.late, self.early = 0, 0
        self._program: Program | None = None
        self._owed = 0.0  # runs that would have been saved
        self._cuts: list[Cut] = []
        self._ends = True  # whether runs may end with what the golden run returned
        self._kept: dict[int, Kept] | None = None  # by where a batch starts

    def __getstate__(self) -> dict[str, Any]:
        return {"_workload": self._workload, "_golden": self._golden, "_names": self._names}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def run_with(self, changed: Iterable[str]) -> Run | None:
        """Return how the model is run while some tensors, named as in the checkpoint, are not what they were; None: as
        always. They must not have changed yet when this is called."""
        try:
            return self._run_with(changed)
        except Exception as error:  # memory ran out, or what a model does to be traced: a full run says what is wrong
            self._give_up(str(error) or type(error).__name__)
            return None

    def _run_with(self, changed: Iterable[str]) -> Run | None:
        workload = self._workload
        if self.reason is not None:
            return None
        if self._program is None:
            if workload.late_bytes == 0 or workload.noise is not None:
                raise UntraceableError("is off" if workload.late_bytes == 0 else "answers vary by themselves")
            self._program = _traced(workload)
        program = self._program
        span = program.span(self._live(changed))
        if span is None:
            return None
        first, last = span
        if self._kept is None:
            self._owed += first / len(program)
            if self._owed < self._worth or hooked(workload.model):
                return None
            self._keep()
        start = next((cut for cut in reversed(self._cuts) if cut.at <= first), None)
        ends = {cut.at: cut for cut in self._cuts if self._ends and cut.at > last}
        return None if start is None and not ends else self._from(start, ends)

    @property
    def _worth(self) -> float:
        """How many runs one without faults costs, that keeps values."""
        return 1.0

    def _own(self) -> Callable[[int], Kept]:
        """Return what gives the values kept of a batch, by where it starts."""
        assert self._kept is not None
        return self._kept.__getitem__

    def _live(self, names: Iterable[str]) -> list[Tensor]:
        return [view for name in names for view in views(self._workload.parameters[name])]

    def _from(self, start: Cut | None, ends: Mapping[int, Cut]) -> Run:
        program, own_of = self._program, self._own()
        assert program is not None

        def run(at: int, batch: Inputs) -> Any:
            if hooked(program.model):
                return batch.given_to(program.model)
            own = own_of(at)

            def ended(position: int, values: Values) -> bool:
                return position in ends and own.same(ends[position], values)

            given = {program.input: batch.first}
            values = given if start is None else own.at(start, given)
            returned, through = program.run(values, 0 if start is None else start.at, ended)
            self.late += start is not None
            self.early += not through
            if not own.intact:
                self._give_up("writes into values in ways that are not seen")
            return returned if through else program.returned(own.output)

        return run

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._kept, self._cuts = None, []

    def _keep(self) -> None:
        """Run the model without faults and keep values.

        Raises:
            UntraceableError: its steps do not give what it gives, what it returns cannot be kept, or nothing fits.
        """
        program, workload = self._program, self._workload
        assert program is not None
        readers = program.readers(self._live(self._names))
        sight, seconds = Sight(program, readers), list[float]()
        kept: dict[int, Kept] = {}
        cuts: dict[int, Cut] = {}
        most = bytes_for(workload.device) if workload.late_bytes is None else workload.late_bytes

        def keep(at: int, batch: Inputs) -> Any:
            with torch.inference_mode(mode=False), torch.no_grad():  # where writing into values is counted
                if not kept:
                    self._look(batch, sight, seconds)
                    times = -(-len(workload) // len(batch))
                    found, sizes = sight.cuts(), {version: times * size for version, size in sight.bytes.items()}
                    cuts.update({cut.at: cut for cut in chosen(found, sizes, seconds, readers, most)})
                    if not cuts:
                        raise UntraceableError(f"no values that would save anything fit into {most:,} bytes")
                own = kept[at] = Kept()

                def look(position: int, values: Values) -> bool:
                    if position in cuts:
                        own.keep(cuts[position], values)
                    if position == len(program):
                        own.keep_output({node: values[node] for node in program.live[position]})
                    return False

                return program.run({program.input: batch.first}, look=look)[0]

        answers = GoldenRun(workload.answers(keep))
        golden = self._golden
        if not (torch.equal(answers.top1, golden.top1) and same_bits(answers.confidence, golden.confidence)):
            raise UntraceableError("its steps do not give what it gives")
        self._kept, self._cuts = kept, [cuts[at] for at in sorted(cuts)]

    def _look(self, batch: Inputs, sight: Sight, seconds: list[float]) -> None:
        """See what can be kept of a batch, and how long a run takes up to every position.

        Raises:
            UntraceableError: see `_keep`.
        """
        program = self._program
        assert program is not None
        returned = pytree.tree_leaves(batch.given_to(program.model))
        start = time.perf_counter()

        def look(at: int, values: Values) -> bool:
            seconds.append(time.perf_counter() - start)
            return sight.look(at, values)

        own = pytree.tree_leaves(program.run({program.input: batch.first}, look=look)[0])
        if len(own) != len(returned) or not all(map(_alike, own, returned)):
            raise UntraceableError("its steps do not give what it gives")


def _traced(workload: Runnable) -> Program:
    with workload.inference():
        return Program(workload.model)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and same_bits(one, other)
    return type(one) is type(other) and isinstance(one, PLAIN)
