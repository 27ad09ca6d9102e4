"""What is put to the test: a model that runs, its data or score, and the tensors of its checkpoint that are at risk.

The one place that opens a checkpoint, selects what is at risk, builds the model and reads the weights: once each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from faultcli.activations.layers import SeenOutputs
from faultcli.campaign.plan import Arm, Identity, Plan
from faultcli.campaign.provenance import Provenance, installed_versions
from faultcli.campaign.scoring import Scoring, score_task
from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.adapters import adapts, base_of
from faultcli.checkpoint.header import TensorInfo
from faultcli.checkpoint.locate import some
from faultcli.errors import FormatError, NonFiniteError, UsageError, WorkloadError
from faultcli.faults.selection import Selecting, Selection
from faultcli.formats import ChannelsOf
from faultcli.hardened.read import Hardened, names_at_risk, stored_as
from faultcli.injection import about_checkpoint
from faultcli.memory import MemoryImage, at_risk, first_names
from faultcli.protect.factors import Factors
from faultcli.protect.plan_file import Protect, read_chain
from faultcli.protect.quantised_tensor import refuse_other_memories
from faultcli.protect.unstorable import naming_all
from faultcli.quantised import Quantised, refuse_values
from faultcli.scaling import read_state
from faultcli.scaling.record import Scaling
from faultcli.workload.base import BaseWorkload
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload
from faultcli.workload.data.datasets import load_data, training_split
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.data.tokens import TokenDataset, load_tokens
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.in_memory import module_workload, scored_module
from faultcli.workload.language import LanguageWorkload
from faultcli.workload.score import ScoreWorkload

DEMO = "demo"


class Opening(Selecting, total=False):
    """How a checkpoint is opened: what of it is at risk (`faults.selection.select`), and how it is run.

    `arch`: as `--arch`; None: what the checkpoint says. `limit`: the first so many inputs. `batch_size`: inputs per
    forward pass. `device`: `auto`, `cpu` or `cuda[:N]`. `mean`, `std`: per channel, in place of the architecture's own.
    `answer`: as `--answer`, where the logits are in what the model returns. `score`: as `--score`, in place of data.
    """

    arch: str | None
    limit: int | None
    batch_size: int | None
    device: str
    mean: Sequence[float] | None
    std: Sequence[float] | None
    answer: str | None
    score: str | None


@dataclass(frozen=True)
class Subject:
    """A model on data, and what of it lies in the memory. Made by `open` or `of`.

    Attributes:
        workload: holds the checkpoint; what takes a subject leaves it in the same state, bit for bit.
        tensors: those at risk, by name, as in the checkpoint.
        checkpoint_hash: content hash of the checkpoint, for a plan's identity.
        factors: those of a scaled checkpoint, for arms that do not scale by themselves.
        unlabelled: inputs for arms that recalibrate or correct; not those that are evaluated.
        unread: selected tensors of the checkpoint that the model does not read, and that are not at risk therefore.
        selection: what `tensors` were selected by.
        model: what the user calls the model.
        data: the data as the user named it; None: the architecture's own, or data in memory.
        checkpoint: the file; None for a model in memory.
        hardened: what a hardened file says of its memory, which is the one that faults hit.
        quantised: a checkpoint with quantised weights, whose words are the memory that faults hit.
        layers: what layers gave without faults, where their outputs are at risk.
    """

    workload: BaseWorkload
    tensors: Mapping[str, Tensor]
    checkpoint_hash: str
    factors: Mapping[str, Factors] | None = None
    unlabelled: Dataset | TokenDataset | None = None
    unread: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    model: str = "checkpoint"
    data: str | None = None
    checkpoint: Checkpoint | None = None
    hardened: Hardened | None = None
    quantised: Quantised | None = None
    layers: SeenOutputs | None = None

    @classmethod
    def open(
        cls,
        model: str | Path | Checkpoint | None = None,
        data: str | None = None,
        **opening: Unpack[Opening],
    ) -> Self:
        """Open a checkpoint, as it is or scaled, and build the model that runs on its data.

            subject = Subject.open("model.safetensors", data="digits")

        Args:
            model: a `.safetensors` file, an index of shards or a directory with either; None: the embedded demo.
            data: as `--data`; None: the architecture's own, if it is embedded.
            opening: see `Opening`.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
            WorkloadError: checkpoint, architecture and data do not fit each other.
            UsageError: a name or a number makes no sense.
        """
        running = {name: value for name, value in opening.items() if name not in Selecting.__annotations__}
        selection = Selection.of(opening)
        of_tensors = selection.of_tensors
        checkpoint = model if isinstance(model, Checkpoint) else open_checkpoint(model)
        if opening.get("arch") in (None, "hf"):
            _check_whole(checkpoint)
        hardened = Hardened.of(checkpoint)
        if hardened is not None and selection.layers is not None:
            raise UsageError(
                f"{checkpoint.path}: is hardened; its memory holds tensors, and no outputs of layers",
                "take the plain checkpoint: faultcli harden FILE --read -o PLAIN",
            )
        quantised = Quantised.of(checkpoint, of_tensors or Selection(), hardened)
        if of_tensors is None:
            names: Sequence[str] = ()
        else:
            names = names_at_risk(checkpoint, hardened, of_tensors) if quantised is None else quantised.weights
        if quantised is not None:
            state, factors, sha256 = quantised.packed.state(), None, checkpoint.sha256()
        elif hardened is not None:
            state, factors, sha256 = hardened.state(), None, checkpoint.sha256()
        else:
            state, factors, sha256 = read_state(checkpoint)
        workload = build_workload(
            state,
            checkpoint.metadata if hardened is None else hardened.metadata,
            WorkloadSpec(data, **running),  # type: ignore[arg-type]
            directory=checkpoint.directory,
            is_directory=checkpoint.kind != "file",
        )
        read = workload.read_by_model(names)
        unread = tuple(name for name in names if name not in set(read))
        if not read and names:
            raise UsageError(
                f"{checkpoint.path}: no answer depends on {some(unread)}: {workload.architecture.name} does not read"
                f" {'it' if len(unread) == 1 else 'them'}",
                "name tensors that it reads with --include" if selection.include else "widen the selection",
            )
        infos = checkpoint.tensors if hardened is None else hardened.infos
        workload.found += _not_read(workload, infos if quantised is None else quantised.packed.infos, unread)
        return cls(
            workload,
            {name: state[name] for name in read},
            sha256,
            factors,
            unread=unread,
            selection=selection,
            model=DEMO if model is None else _called(checkpoint.path),
            data=data,
            checkpoint=checkpoint,
            hardened=hardened,
            quantised=quantised,
            layers=_layers(workload, selection),
        )

    @classmethod
    def of(
        cls,
        model: nn.Module,
        data: Any = None,
        *,
        name: str | None = None,
        **scoring: Unpack[Scoring],
    ) -> Self:
        """Put a model in memory to the test, on data in memory or by a score.

            subject = Subject.of(model, loader)
            subject = Subject.of(model, (images, labels))
            subject = Subject.of(model, [{"input_ids": ids, "attention_mask": mask, "labels": labels}])
            subject = Subject.of(model, score=lambda model: {"mAP": evaluate(model)})
            subject = Subject.of(model, loader, metric=torchmetrics.JaccardIndex(task="binary"))

        The model is left on its device and in its mode; after a campaign every bit of it is as before.

        Args:
            model: of a classifier, returns logits [N, classes].
            data: labelled inputs as the model takes them, floating-point or integers: a DataLoader (or any iterable) of
                batches (inputs, labels), gone through once and kept; or one such pair of tensors or arrays. Inputs may
                be several by name, and batches mappings with `labels` among them, as those of transformers. None with
                a score.
            name: what reports call the model; None: the name of its class.
            scoring: see `Scoring`; and `target`, `include`, `exclude`: which tensors are at risk, see
                `faults.selection.select`.

        Raises:
            WorkloadError: the data are none, or do not fit the model; the score fails.
            UsageError: nothing is selected, or what is asked for contradicts itself.
        """
        selection = Selection.of(scoring)
        live = first_names(model.state_dict())
        tensors = {} if selection.of_tensors is None else at_risk(live, selection.of_tensors)
        called = name or type(model).__name__
        task, answer = score_task(data, scoring), scoring.get("answer")
        workload: BaseWorkload
        workload = module_workload(model, data, called, answer) if task is None else scored_module(model, task, called)
        seen = _layers(workload, selection)
        return cls(workload, tensors, state_sha256(live), selection=selection, model=called, layers=seen)

    def doubts(self) -> list[str]:
        """Return what a user may not expect of what is at risk and of the model, a line each."""
        own = self.checkpoint is None or self.hardened is not None or self.quantised is not None
        left_out = None if own or self.checkpoint is None else self.selection.left_out(self.checkpoint.tensors.values())
        excuse = "" if self.layers is None else self.layers.excuse
        layers = [f"outputs of layers that are not at risk: {excuse}"] if excuse else []
        return [*([] if left_out is None else [left_out]), *layers, *self.workload.doubts()]

    @cached_property
    def channels(self) -> ChannelsOf:
        """The output channels of tensors where they are no slices of the first dimension."""
        scaling = None if self.checkpoint is None else Scaling.of(self.checkpoint)
        found = self.workload.channels()
        return found if scaling is None else scaling.channels_among(found)

    @property
    def training_split(self) -> str | None:
        """What the inputs that the model was trained on are called, as `--data` takes it; None where that cannot be
        told from its data."""
        in_memory = self.data is None and self.checkpoint is None
        return None if in_memory else training_split(self.data if self.data is not None else "digits")

    def looking_at(self, unlabelled: str | Dataset | TokenDataset | None = None) -> Self:
        """Return the subject with inputs for arms that recalibrate or correct.

        Args:
            unlabelled: a data set, or its name as `--data` takes it; None: the training split of the subject's data.

        Raises:
            UsageError: the data have no training split.
        """
        if isinstance(unlabelled, Dataset | TokenDataset):
            return replace(self, unlabelled=unlabelled)
        if (named := unlabelled or self.training_split) is None:
            problem = f"{self.data or self.workload.data_name}: has no training split to look at"
            raise UsageError(problem, "name unlabelled inputs: --unlabelled D")
        network = self.workload.architecture
        if network.language is not None:
            return replace(self, unlabelled=load_tokens(named, network.language))
        return replace(self, unlabelled=load_data(named, label_offset=network.label_offset, **network.wanted))

    def classifier(self, option: str) -> Workload:
        """Return the workload as one that answers with one of K classes, which `option` needs.

        Raises:
            UsageError: it does not.
        """
        if isinstance(self.workload, Workload):
            return self.workload
        raise UsageError(
            f"{option} works on classifiers, whose answer is one of K classes; {self.workload.architecture.name} is"
            f" {'scored by a function' if isinstance(self.workload, ScoreWorkload) else 'a language model'}",
            "leave it out; for all models there are protections of the memory, --protect",
        )

    def answering(self, option: str) -> Workload | LanguageWorkload:
        """Return the workload as one whose logits can be corrected, which `option` needs; raises as `classifier`."""
        return self.workload if isinstance(self.workload, LanguageWorkload) else self.classifier(option)

    def provenance(self, command: str, memories: Sequence[Mapping[str, Any]] = ()) -> Provenance:
        """Say where numbers that this subject gives come from.

        Args:
            command: how to get them again: a line for a shell, or of a program.
            memories: those that rates were named after, and the sources of these.
        """
        workload = self.workload
        return Provenance(
            model=self.model,
            checkpoint_sha256=self.checkpoint_hash,
            architecture=workload.architecture.name,
            data=workload.data_name,
            data_sha256=workload.data_sha256(),
            device=str(workload.device),
            batch_size=workload.batch_size,
            threads=torch.get_num_threads(),
            command=command,
            versions=installed_versions(),
            tensors={name: list(tensor.shape) for name, tensor in self.tensors.items()},
            memories=memories,
            preprocessing=workload.preparation,
        )

    def identity(self, plan: Plan) -> Identity:
        """Return what a plan is, run on this subject."""
        return plan.identity(
            checkpoint=self.checkpoint_hash,
            workload=self.workload.identity(),
            unlabelled=self.unlabelled.sha256() if self.unlabelled else None,
            unread=self.unread,
        )

    def memory(self, format: str = "native", protect: Protect = "none", ber: float | None = None) -> MemoryImage:
        """Return the tensors as they lie in a memory of this format, behind these protections; those of a hardened or
        quantised file as they lie there.

        Raises:
            FormatError, UsageError: a tensor cannot be stored in this format, or so protected.
        """
        chain = read_chain(protect)
        if not self.tensors:
            return MemoryImage({}, format)
        if self.hardened is not None:
            stored_as(self.hardened, [format], [chain])
        if self.quantised is not None:
            refuse_other_memories(self.quantised.packed, [format], [chain])
            return self.quantised.image(list(self.tensors), chain)
        if self.hardened is not None:
            return self.hardened.image(list(self.tensors))
        try:
            return MemoryImage(self.tensors, format, chain, ber, self.factors, self.channels)
        except FormatError as error:
            found = naming_all(error, self.tensors) if isinstance(error, NonFiniteError) else error
            raise (found if self.checkpoint is None else about_checkpoint(found, self.checkpoint)) from None

    def image(self, arm: Arm) -> MemoryImage:
        """Return the tensors as they lie in the memory of an arm; raises as `memory` does."""
        if self.quantised is not None:
            refuse_values(arm.fault, self.quantised.packed)
        return self.memory(*arm.memory)


def _layers(workload: BaseWorkload, selection: Selection) -> SeenOutputs | None:
    """Return what layers give, if their outputs are at risk."""
    if selection.layers is None:
        return None
    return SeenOutputs.of(workload.model, selection.layers, workload.outcome)


def _not_read(workload: BaseWorkload, tensors: Mapping[str, TensorInfo], unread: Sequence[str]) -> list[str]:
    """Return what a user is told of tensors that the model does not read: those that were selected, and those that
    nobody expects in a model of its kind."""
    binding = workload.binding
    if binding is None:
        return []
    told = (set(unread) | binding.unknown) - binding.left_out
    infos = [info for name, info in tensors.items() if name in told]
    if not infos:
        return []
    names, bits = some([info.name for info in infos]), sum(8 * info.nbytes for info in infos)
    if len(infos) == 1:
        return [f"the model does not read {names}, {bits:,} bits: it is not at risk"]
    return [f"the model does not read {len(infos)} tensors, {bits:,} bits: they are not at risk: {names}"]


def _check_whole(checkpoint: Checkpoint) -> None:
    """Refuse an adapter, which is no model by itself.

    Raises:
        WorkloadError: it is one.
    """
    if adapts(checkpoint.tensors):
        base = base_of(checkpoint.directory)
        raise WorkloadError(
            f"{checkpoint.path}: is an adapter{f' of {base}' if base else ''}, which does not run without its model",
            "merge the two first (peft: model.merge_and_unload().save_pretrained('merged')), and name merged",
        )


def _called(path: Path) -> str:
    """Return what a user calls a checkpoint; a folder of the name that the embedded demo has is told from it."""
    return f"./{path}" if str(path) == DEMO else str(path)


def open_checkpoint(model: str | Path | None) -> Checkpoint:
    """Open a checkpoint; without a name, the embedded demo."""
    return Checkpoint.open(demo_checkpoint_path() if model is None else model)


def state_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of names, dtypes, shapes and bytes of tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
