"""A checkpoint's tensors into a model of transformers, each found again where the model has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.live import fill
from faultcli.workload.models.architectures import IGNORED_SUFFIX
from faultcli.workload.models.binding import Binding, bind, by_storage, empty, own_memory
from faultcli.workload.models.coding import Loading
from faultcli.workload.models.hf_config import CONFIG, OWN_NETWORK, check_size, first_line, offline, quiet
from faultcli.workload.models.prefixes import NameFit, fit
from faultcli.workload.models.rearranged import rearranged

_SHOWN = 3


class ImageClassifier(nn.Module):
    """Images [N, C, H, W] to logits [N, K]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, images: Tensor) -> Tensor:
        """Run the model in its own dtype."""
        logits: Tensor = self.model(images.to(self.model.dtype)).logits
        return logits


class LanguageModel(ImageClassifier):
    """Token ids [N, T] and their mask to logits [N, T, V]."""

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the model over whole sequences."""
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits


Wrap: TypeAlias = Callable[[nn.Module], nn.Module]  # what keeps the model as its attribute `model`


def load(directory: Path, name: str, wrap: Wrap, config: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the model with the checkpoint's tensors, in the checkpoint's own dtype; in the widest, if it has several.

    transformers renames tensors and may rearrange them. Those that it takes as they are share storage with what it was
    given, and so each is found where the model has it; the others are found by `rearranged`. What the file holds twice,
    the model has twice: transformers ties two tensors only where they are alike, which faults in one of them end.

    RAM: besides `state`, the model once.

    Raises:
        WorkloadError: tensors are missing, left over or of another shape, or the model cannot be built.
    """
    import transformers

    kind = getattr(transformers, name)
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if any(dtype.itemsize < 2 for dtype in dtypes):
        raise WorkloadError(
            f"{directory}: the weights are {_first(dtypes)}, which transformers cannot compute with",
            "save them as float32, float16 or bfloat16; faultcli itself stores them in 8 bits: --format fp8-e4m3",
        )
    dtype = reduce(torch.promote_types, dtypes, torch.float32 if not dtypes else next(iter(dtypes)))
    with quiet(), offline(), torch.random.fork_rng(devices=[]):
        skeleton = check_size(directory, name, config, state)
        fitting = _fit(state, skeleton)
        given = {
            key: state[stored].to(dtype if state[stored].is_floating_point() else state[stored].dtype).contiguous()
            for stored, key in fitting.names.items()
        }
        marked = _told_apart(given)
        try:
            model, info = _loaded(kind, config, {**given, **marked}, dtype)
        except Exception as error:  # a wrong configuration fails anywhere in the model's own code
            raise WorkloadError(
                f"{directory}: {name} cannot be built: {first_line(error)}",
                OWN_NETWORK,
            ) from error
        unknown = _check(directory, name, model, info)
        model.requires_grad_(False).eval()
        held = {**given, **marked}
        own = model.state_dict()
        spots = by_storage(held, own) | empty(held, own)
        own_memory(model, state.values())
        own = dict(model.state_dict())
        rest = {key: tensor for key, tensor in held.items() if key not in spots}
        places = rearranged(rest, own, _by_transformers(kind, config)) if rest else {}
    spots |= {key: found for key, found in places.items() if found}
    by_key = {key: stored for stored, key in fitting.names.items()}
    binding = Binding(
        {by_key[key]: found for key, found in spots.items()},
        {stored: tuple(tensor.shape) for stored, tensor in state.items()},
        frozenset(by_key[key] for key, found in places.items() if found is None),
        fitting.left_out,
        frozenset(by_key[key] for key, found in places.items() if found == () and key in unknown),
        fitting.notes,
    )
    for stored, live in binding.live(own).items():
        if fitting.names[stored] in marked:
            fill(live, given[fitting.names[stored]])
    return bind(wrap(model).eval(), binding.inside("model."))


def _fit(state: Mapping[str, Tensor], skeleton: Any) -> NameFit:
    """Find what names of the file begin with that those of the model do not. The prefix of the model's inner part may
    be there or not: transformers sees to that."""
    own: dict[str, Any] = {key: tuple(tensor.shape) for key, tensor in skeleton.state_dict().items()}
    base = f"{skeleton.base_model_prefix}." if skeleton.base_model_prefix else ""
    inner = {key.removeprefix(base): shape for key, shape in own.items()}
    outer = {base + key: shape for key, shape in own.items() if not key.startswith(base)}
    return fit({key: tuple(tensor.shape) for key, tensor in state.items()}, own, also={**outer, **inner})


def _loaded(kind: Any, config: Any, state: dict[str, Tensor], dtype: torch.dtype) -> tuple[Any, Mapping[str, Any]]:
    model, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are listed, and refused
    )
    return model, info


def _told_apart(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors that are alike to another one, each with a first element of its own: a tie would make
    one of them."""
    alike: dict[object, list[Tensor]] = {}  # −0 and 0 are
    marked: dict[str, Tensor] = {}
    for key, tensor in given.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        look = tensor.view(-1)[:: max(1, tensor.numel() // 16)].contiguous()
        twins = alike.setdefault((tensor.shape, (look + 0).view(torch.uint8).numpy().tobytes()), [])
        if any(torch.equal(twin, tensor) for twin in twins):
            copy = tensor.clone()
            code = torch.tensor([len(marked) + 1], dtype=torch.int16).view(torch.uint8)
            copy.view(-1).view(torch.uint8)[:2] = code
            marked[key] = copy
        twins.append(tensor)
    return marked


def _by_transformers(kind: Any, config: Any) -> Loading:
    """Return what loads some tensors as transformers does, and leaves all others without memory."""

    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        """What gives missing tensors memory and values."""

    skipped = ("_move_missing_keys_from_meta_to_device", "_initialize_missing_keys", "tie_weights")
    bare = type(kind.__name__, (kind,), {"__module__": kind.__module__} | dict.fromkeys(skipped, nothing))

    def loading(codes: dict[str, Tensor]) -> dict[str, Tensor]:
        model, _ = _loaded(bare, config, codes, next(iter(codes.values())).dtype)
        return {key: tensor for key, tensor in model.state_dict().items() if not tensor.is_meta}

    return loading


def _check(directory: Path, name: str, model: Any, info: Mapping[str, Any]) -> frozenset[str]:
    """Refuse what does not fit; return the tensors that transformers has no use for, as it calls them and as the file
    does, with and without the prefix of the model's inner part."""
    missing = [key for key in info["missing_keys"] if not key.endswith(IGNORED_SUFFIX)]
    base = f"{model.base_model_prefix}."
    unknown = [key for key in info["unexpected_keys"] if not key.endswith(IGNORED_SUFFIX)]
    layers = {_numberless(key.removeprefix(base)) for key in model.state_dict()}
    kinds = {
        "missing": missing,
        "unexpected": unknown if missing else [k for k in unknown if _numberless(k.removeprefix(base)) in layers],
        "of another shape": [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]],
    }
    problems = [f"{len(found)} {kind} ({_first(found)})" for kind, found in kinds.items() if found]
    if problems:
        raise WorkloadError(
            f"{directory}: the checkpoint does not fit the {name} of its {CONFIG}: tensors {'; '.join(problems)}",
            f"fetch the model again; {CONFIG} and the weights have to belong together",
        )
    if info.get("error_msgs"):
        raise WorkloadError(
            f"{directory}: {name} cannot be loaded: {str(info['error_msgs'][0]).splitlines()[0]}",
            f"fetch the model again; {CONFIG} and the weights have to belong together",
        )
    return frozenset([*unknown, *(key.removeprefix(base) for key in unknown), *(base + key for key in unknown)])


def _numberless(name: str) -> str:
    """Return a name without its numbers: alike for all layers, those that the configuration does not have, too."""
    return re.sub(r"\d+", "#", name)


def _first(names: Iterable[object]) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
