"""The table of layouts, and which of them a checkpoint is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faultcli.checkpoint.packed import awq, bitsandbytes, block_floats, compressed_tensors, gguf, gptq, torchao
from faultcli.checkpoint.packed.files import Files
from faultcli.checkpoint.packed.weight import PackedWeight
from faultcli.checkpoint.reader import Checkpoint
from faultcli.errors import CheckpointError
from faultcli.foreign import ForeignError, parse_json, read_text

CONFIG = "config.json"
# Beside a checkpoint without a quantization_config: ModelOpt's, AutoGPTQ's and AutoAWQ's own files.
_BESIDE = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}

_ACTIVATIONS = (
    *(".input_scale", ".input_zero_point", ".input_global_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale"),
)


@dataclass(frozen=True)
class PackedLayout:
    """A way to store quantised weights.

    `find`: yields a checkpoint's weights. `told_by`: endings of names by which a file without a configuration is known,
    where all of one line occur; where the configuration names the layout, the first of a line is enough.
    `beside`: endings of tensors that describe how weights are stored, or scale activations: no weight is made of them.
    """

    title: str
    find: Callable[[Files], Iterator[PackedWeight]]
    told_by: tuple[tuple[str, ...], ...]
    beside: tuple[str, ...] = ()


# By the quant_method of a configuration. Of two layouts that names do not tell apart, the first is meant.
LAYOUTS: dict[str, PackedLayout] = {
    "gptq": PackedLayout("GPTQ", gptq.find, ((".qweight", ".g_idx"),)),
    "awq": PackedLayout("AWQ", awq.find, ((".qweight", ".qzeros"),)),
    "bitsandbytes": PackedLayout(
        "bitsandbytes",
        bitsandbytes.find,
        (("__nf4",), ("__fp4",), (".absmax",), (".SCB",)),
        (".quant_map", "__nf4", "__fp4", ".weight_format"),
    ),
    "modelopt": PackedLayout(
        "ModelOpt", block_floats.find_modelopt, ((".weight_scale", ".weight_scale_2"),), _ACTIVATIONS
    ),
    "fp8": PackedLayout("FP8", block_floats.find_fp8, ((".weight_scale_inv",),), (".activation_scale", *_ACTIVATIONS)),
    "mxfp4": PackedLayout("MXFP4 of gpt-oss", block_floats.find_gpt_oss, (("_blocks", "_scales"),)),
    "compressed-tensors": PackedLayout(
        "compressed-tensors",
        compressed_tensors.find,
        ((".weight_packed",), (".weight_scale",)),
        (".weight_shape", *_ACTIVATIONS),
    ),
    "torchao": PackedLayout("torchao", torchao.find, (("_qdata", "_scale"),)),
    "gguf": PackedLayout("GGUF", gguf.find, ()),  # told by its file
}
_SAME = {"mxfp8": "fp8"}


def known(config: object) -> bool:
    """Return whether a `quantization_config` is of a layout of the table."""
    return isinstance(config, dict) and method_of(config) in LAYOUTS


def method_of(config: Mapping[str, Any]) -> str:
    """Return the name in the table of what a `quantization_config` describes."""
    method = str(config.get("quant_method") or config.get("quant_library") or "").lower()
    return _SAME.get(method, method)


def layout_of(checkpoint: Checkpoint) -> tuple[PackedLayout, Mapping[str, Any]] | None:
    """Return the layout of a checkpoint, with the configuration that describes it: by what the files beside it say, or
    by the names of its tensors; None if it is in none, or its configuration names one that is not in the table.

    Raises:
        CheckpointError: the configuration of a directory names a layout that no tensor in it is in.
    """
    if checkpoint.is_gguf:
        return LAYOUTS["gguf"], {}
    ends = {end for layout in LAYOUTS.values() for line in layout.told_by for end in line}
    found = {end for end in ends if any(name.endswith(end) for name in checkpoint.tensors)}
    if not found and checkpoint.kind != "directory":
        return None
    config = configuration(checkpoint.directory)
    if method := method_of(config):
        layout = LAYOUTS.get(method)
        if layout is not None and any(line[0] in found for line in layout.told_by):
            return layout, config
        if layout is not None and checkpoint.kind == "directory":
            raise CheckpointError(
                f"{checkpoint.path}: is quantised as {layout.title} by its {CONFIG}, but no tensor in it is",
                f"fetch it again; if its weights are plain, take quantization_config out of {CONFIG}",
            )
        return None
    told = (layout for layout in LAYOUTS.values() if any(found.issuperset(line) for line in layout.told_by))
    return next(((layout, {}) for layout in told), None)


def configuration(directory: Path) -> dict[str, Any]:
    """Return the `quantization_config` of a directory, or what another file in it says in its place; empty if nothing
    does. A damaged config.json is left to those who need it."""
    content = read_object(directory / CONFIG)
    for holder in (content, content.get("text_config")):
        for key in ("quantization_config", "compression_config"):
            if isinstance(holder, dict) and isinstance(holder.get(key), dict):
                return dict(holder[key])
    for name, method in _BESIDE.items():
        said = read_object(directory / name)
        if said:
            inner = said.get("quantization")
            return {"quant_method": method, **(inner if isinstance(inner, dict) else said)}
    return {}


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none, or it is damaged."""
    if not path.is_file():
        return {}
    try:
        content = parse_json(read_text(path))
    except ForeignError:
        return {}
    return content if isinstance(content, dict) else {}
