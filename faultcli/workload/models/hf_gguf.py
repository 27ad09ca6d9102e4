"""GGUF tensors into a model of transformers: under other names, and with the rows of queries and keys in another order.

Names as convert_hf_to_gguf.py of llama.cpp gives them. It stores the rows of a head of queries or keys in pairs, the
two that are rotated together side by side (docs/gguf.md, `permute`); in transformers one is in the first half of the
head, the other in the second. Faults are in the file's order: each row is found again where the model has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.binding import Spot, bind, binding_of
from faultcli.workload.models.hf_config import CONFIG
from faultcli.workload.models.hf_weights import Wrap, load

MODELS = ("llama", "mistral")  # model_type of those whose names and order are these
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}  # of whose rows the order differs
_OF_ROPE = "rope_freqs.weight"  # which transformers computes from the configuration
_IN_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def is_of_gguf(names: Collection[str]) -> bool:
    """Whether tensors are named as in a GGUF file."""
    return "token_embd.weight" in names


def hf_names(directory: Path, config: Any, names: Collection[str]) -> dict[str, str]:
    """Return what transformers calls a GGUF file's tensors; those that it computes are absent.

    Raises:
        WorkloadError: the configuration is of another kind of model than `MODELS`, or a tensor has another name.
    """
    if config.model_type not in MODELS:
        raise WorkloadError(
            f"{directory / CONFIG}: is of a {config.model_type}; run from GGUF are {' and '.join(MODELS)}",
            "run the checkpoint that it was converted from; inspect and inject take every GGUF",
        )
    return {name: _hf_name(directory, name) for name in names if name != _OF_ROPE}


def _hf_name(directory: Path, name: str) -> str:
    if (match := _IN_LAYER.fullmatch(name)) and match[2] in _IN_LAYERS:
        return f"model.layers.{match[1]}.{_IN_LAYERS[match[2]]}.{match[3]}"
    stem, _, kind = name.rpartition(".")
    if stem in _NAMES:
        return f"{_NAMES[stem]}.{kind}"
    raise WorkloadError(
        f"{directory}: tensor {name!r} of the GGUF file is none of a {' or '.join(MODELS)} of transformers",
        "run the checkpoint that it was converted from; inspect and inject take every GGUF",
    )


def load_gguf(directory: Path, name: str, wrap: Wrap, config: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """As `hf_weights.load`, of tensors with the names and in the order of a GGUF file."""
    named = hf_names(directory, config, state)
    heads = {stored: count for stored in named if (count := _heads(stored, config))}
    for stored, count in heads.items():
        if len(state[stored]) % (2 * count):
            raise WorkloadError(
                f"{directory}: tensor {stored!r} has {len(state[stored])} rows, which are no {count} heads of pairs",
                f"fetch the model again; {CONFIG} and the weights have to belong together",
            )
    given = {
        own: _in_halves(state[stored], heads[stored]) if stored in heads else state[stored]
        for stored, own in named.items()
    }
    model = load(directory, name, wrap, config, given)
    binding = binding_of(model)
    assert binding is not None
    spots = {stored: binding.spots[own] for stored, own in named.items() if own in binding.spots}
    for stored, count in heads.items():
        if stored in spots:
            spots[stored] = _in_pairs(directory, stored, spots[stored], state[stored].shape, count)

    def stored_among(found: Collection[str]) -> frozenset[str]:
        return frozenset(stored for stored, own in named.items() if own in found)

    computed = frozenset({_OF_ROPE} & state.keys())
    notes = (f"{_OF_ROPE}: the model computes it from {CONFIG}; it is not at risk",) if computed else ()
    return bind(
        model,
        replace(
            binding,
            spots=spots,
            shapes={stored: tuple(tensor.shape) for stored, tensor in state.items()},
            computed=stored_among(binding.computed),
            left_out=stored_among(binding.left_out) | computed,
            unknown=stored_among(binding.unknown),
            notes=(*binding.notes, *notes),
        ),
    )


def _heads(stored: str, config: Any) -> int:
    """Return of how many heads the rows of a tensor are, if their order differs; 0: it does not."""
    match = _IN_LAYER.fullmatch(stored)
    key = _HEADS.get(match[2]) if match else None
    return 0 if key is None else int(getattr(config, key, None) or config.num_attention_heads)


def _in_halves(tensor: Tensor, heads: int) -> Tensor:
    return tensor.view(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _in_pairs(directory: Path, stored: str, spots: tuple[Spot, ...], shape: tuple[int, ...], heads: int) -> tuple[Spot]:
    """Return the place of a tensor whose rows the file has in pairs, and the model in halves of heads."""
    (spot, *others) = spots
    rows, cols = shape[0], math.prod(shape[1:])
    if others or (spot.live, spot.live_strides) != (spot.stored, spot.stored_strides):
        raise WorkloadError(
            f"{directory}: transformers keeps {stored!r} in pieces, so faults in it cannot be carried over",
            "run the checkpoint that it was converted from",
        )
    half = rows // heads // 2
    live, pairs = (2 * half * cols, cols, half * cols, 1), (2 * half * cols, 2 * cols, cols, 1)
    return (Spot(spot.name, (heads, half, 2, cols), 0, live, 0, pairs),)
