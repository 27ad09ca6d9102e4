"""Which class of transformers a checkpoint is of, and how many classes it has, where config.json leaves that open.

Many configurations name no class (`architectures`), or the one without a head that they were fine-tuned from. What the
checkpoint is for is then told from the head that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.bounded import Shapes
from faultcli.workload.models.hf_config import CONFIG, without_weights
from faultcli.workload.models.hf_tasks import TASKS, HfTask

_SHOWN = 3
_KINDS = ", ".join(task.name for task in TASKS[:-1]) + f" or {TASKS[-1].name}"


def class_of(directory: Path, config: Any, shapes: Shapes) -> tuple[str, HfTask | None, tuple[str, ...]]:
    """Return the name of a model's class in transformers, its task (None: of no task whose answers are counted), and
    what a user may not expect of the choice.

    Raises:
        WorkloadError: it needs code that came with the checkpoint, or nothing says or shows which class it is.
    """
    path, named = directory / CONFIG, (config.architectures or [None])[0]
    for task in TASKS:
        if any(named in names for names in task.classes.values()):
            return str(named), task, ()
    if hasattr(config, "auto_map"):
        raise WorkloadError(
            f"{path}: {named} needs code that came with the checkpoint, which is never run",
            "if you trust it, pass it as --arch package.module:factory",
        )
    backbones = _mapping("MODEL_MAPPING_NAMES")
    if named in _all_classes() and named not in _flat(backbones.values()):
        return str(named), None, ()
    return _by_its_head(path, named, config, shapes, _flat([backbones.get(config.model_type, ())]))


def _by_its_head(
    path: Path, named: str | None, config: Any, shapes: Shapes, backbones: list[str]
) -> tuple[str, HfTask | None, tuple[str, ...]]:
    without = "names no architecture" if named is None else f"names {named}"
    headless: list[tuple[str, HfTask]] = []  # whose head is tied to what they share
    for task in TASKS:
        if task.mapping == "CAUSAL_LM" and _fills_blanks(config):
            continue
        for name in task.classes.get(config.model_type, ()):
            head = head_of(without_weights(path.parent, name, _counted(config), shapes))
            if head and all(_shape_of(shapes, key) is not None for key in head):
                shown = ", ".join(head[:_SHOWN])
                return name, task, (f"{path}: {without}; taken for {name}, whose head the checkpoint has ({shown})",)
            headless += [] if head else [(name, task)]
    if headless:
        return *headless[0], (f"{path}: {without}; taken for {headless[0][0]}",)
    if backbones:
        return backbones[0], None, ()
    raise WorkloadError(
        f"{path}: {without}, and of {config.model_type} transformers has no {_KINDS}",
        "pass a model of one of these tasks, or --arch package.module:factory",
    )


def head_of(model: Any) -> list[str]:
    """Return the names of a model's tensors that are not those of the part that all of its kind share; of those that
    are tied to others, none."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    shared = f"{model.base_model_prefix}."
    return [key for key in model.state_dict() if not key.startswith(shared) and key not in tied]


def counted_labels(directory: Path, name: str, config: Any, shapes: Shapes) -> tuple[str, ...]:
    """Give a configuration without a table of labels as many as the checkpoint's head has; return what was done.

    A table of names is left as it is; two of transformers' own, `LABEL_0` and `LABEL_1`, are what it takes for none.
    """
    if not shapes or (config.id2label and list(config.id2label.values()) != ["LABEL_0", "LABEL_1"]):
        return ()
    _counted(config)
    before = config.num_labels
    built = without_weights(directory, name, config, shapes)
    found = rows_of_head(built, before, partial(_shape_of, shapes))
    if found is None:
        return ()
    config.num_labels = found
    return (f"{directory / CONFIG}: names no labels; {found} classes, as the checkpoint's head has",)


def rows_of_head(model: nn.Module, rows: int, shape_of: Callable[[str], Any]) -> int | None:
    """Return how many classes a checkpoint has where a model, built with so many, has another number; None where
    they are the same, or where tensors differ in anything else."""
    found = set()
    for key, tensor in model.state_dict().items():
        own, stored = tuple(tensor.shape), shape_of(key)
        if stored is not None and own != (stored := tuple(stored)):
            if own[:1] != (rows,) or len(stored) != len(own) or stored[1:] != own[1:]:
                return None
            found.add(stored[0])
    return found.pop() if len(found) == 1 else None


def refusal(directory: Path, name: str, config: Any) -> str:
    """Say why a model of transformers answers with no class and no token."""
    if name in _flat([_mapping("MODEL_MAPPING_NAMES").get(config.model_type, ())]):
        return f"{directory}: the checkpoint holds {name}, a network without a head, which answers nothing"
    return f"{directory / CONFIG}: names the architecture {name!r}, which is no {_KINDS}"


def _counted(config: Any) -> Any:
    """Return a configuration that has some number of labels."""
    if config.id2label is None:
        config.num_labels = 2
    return config


def _fills_blanks(config: Any) -> bool:
    """Whether models of this type predict masked tokens, and this one is not made a decoder."""
    return config.model_type in _mapping("MODEL_FOR_MASKED_LM_MAPPING_NAMES") and not getattr(
        config, "is_decoder", False
    )


def _shape_of(shapes: Shapes, key: str) -> Sequence[int] | None:
    """Return the shape of a checkpoint's tensor of this name, whatever wrapper it was saved in."""
    if key in shapes:
        return shapes[key]
    return next((shape for name, shape in shapes.items() if name.endswith(f".{key}")), None)


def _mapping(name: str) -> Mapping[str, Any]:
    from transformers.models.auto import modeling_auto

    found: Mapping[str, Any] = getattr(modeling_auto, name)
    return found


def _all_classes() -> set[str]:
    """Every class that one of transformers' own tables lists."""
    from transformers.models.auto import modeling_auto

    tables = [table for key, table in vars(modeling_auto).items() if key.endswith("_MAPPING_NAMES")]
    return {name for table in tables for name in _flat(table.values())}


def _flat(names: Iterable[Any]) -> list[str]:
    return [one for name in names for one in (name if isinstance(name, tuple | list) else (name,))]
