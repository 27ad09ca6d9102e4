"""Makes the golden files of this folder: for each layout a small checkpoint, and what its own library reads from it.

    python make.py [CASE...]

Needs torch 2.13, transformers 5.24 and, without their dependencies, gptqmodel 7.7.0 and autoawq 0.2.9 (their sources),
compressed-tensors 0.20.0, bitsandbytes 0.50.2, torchao 0.18.0, nvidia-modelopt 0.47.0. The tests need none of them.

CASE/model.safetensors, CASE/config.json   the checkpoint
CASE.expected.safetensors                  `weight`: what the library reads; `TENSOR:words`, `TENSOR:masks`: flips in
                                           words of its tensors; `hit`: what the library reads with them
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
CASES: dict[str, Callable[[], "Case"]] = {}
FLIPS = 6  # in each tensor


class Case:
    """`tensors`: of the file. `read`: what the library makes of them. `hit`: those whose words are flipped."""

    def __init__(self, tensors, read, hit, config, metadata=None, dtype=None):
        self.tensors, self.read, self.hit, self.config = tensors, read, hit, config
        self.metadata, self.dtype = metadata, dtype


def case(function):
    CASES[function.__name__.replace("_", "-")] = function
    return function


def words(*shape, dtype=torch.int32) -> Tensor:
    info = torch.iinfo(dtype)
    return torch.randint(info.min, info.max, shape, dtype=torch.int64).to(dtype)


def scales(*shape, dtype=torch.float16) -> Tensor:
    return (torch.rand(*shape) * 0.02 + 0.001).to(dtype)


def _gptq(bits, version="gptq", inputs=64, outputs=32, group=32, order=False, pack=torch.int32) -> Case:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    width = torch.iinfo(pack).bits
    groups = -(-inputs // group)
    index = torch.arange(inputs, dtype=torch.int32) // group
    tensors = {
        "qweight": words(-(-inputs * bits // width), outputs, dtype=pack),
        "qzeros": words(groups, -(-outputs * bits // width), dtype=pack),
        "scales": scales(groups, outputs),
        "g_idx": index[torch.randperm(inputs)] if order else index,
        "bias": scales(outputs),
    }

    def read(held):
        layer = TorchLinear(
            bits=bits, group_size=group, sym=False, desc_act=order, in_features=inputs, out_features=outputs,
            pack_dtype=pack, format=FORMAT(version), bias=True,
        )  # fmt: skip
        layer.eval()
        for name in tensors:
            setattr(layer, name, held[f"layer.{name}"].clone())
        layer._init_wf_unsqueeze_buffers()
        if version == "gptq":
            convert_gptq_v1_to_v2_format_module(layer, bits=bits, pack_dtype=pack)
        return layer.dequantize_weight().T

    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "checkpoint_format": version,
        "desc_act": order,
    }
    hit = ["layer.qweight", "layer.qzeros", "layer.scales"]
    return Case({f"layer.{name}": t for name, t in tensors.items()}, read, hit, config)


for _bits, _version in [(2, "gptq"), (3, "gptq"), (4, "gptq"), (8, "gptq"), (4, "gptq_v2"), (3, "gptq_p")]:
    CASES[f"{_version.replace('_', '-')}-{_bits}"] = lambda b=_bits, v=_version: _gptq(b, v)
for _bits in (5, 6, 7):
    CASES[f"gptq-p-{_bits}"] = lambda b=_bits: _gptq(b, "gptq_p", inputs=32)
CASES["gptq-4-act-order"] = lambda: _gptq(4, inputs=48, outputs=16, group=16, order=True)
CASES["gptq-4-in-bytes"] = lambda: _gptq(4, inputs=32, outputs=8, group=16, pack=torch.int8)


@case
def awq():
    from awq.utils.packing_utils import dequantize_gemm

    tensors = {"layer.qweight": words(64, 4), "layer.qzeros": words(2, 4), "layer.scales": scales(2, 32)}

    def read(held):
        return dequantize_gemm(held["layer.qweight"], held["layer.qzeros"], held["layer.scales"], 4, 32).T

    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
    return Case(tensors, read, list(tensors), config)


def _compressed(format, weights: dict[str, Any], tensors, hit) -> Case:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    scheme = QuantizationScheme.model_validate({"targets": ["Linear"], "weights": weights})

    def read(held):
        own = {name.removeprefix("layer."): t for name, t in held.items()}
        return BaseCompressor.get_value_from_registry(format).decompress(own, scheme)["weight"]

    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    config = {"quant_method": "compressed-tensors", "format": format, "config_groups": groups}
    named = {f"layer.{name}": t for name, t in tensors.items()}
    return Case(named, read, [f"layer.{name}" for name in hit], config)


def _packed(bits, strategy, *, symmetric, rows=16, cols=64, group=16) -> Case:
    many = cols // group if strategy == "group" else 1
    tensors = {
        "weight_packed": words(rows, -(-cols * bits // 32)),
        "weight_scale": scales(rows, many, dtype=torch.bfloat16),
        "weight_shape": torch.tensor([rows, cols]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(-(-rows * bits // 32), many)
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy}
    if strategy == "group":
        weights["group_size"] = group
    return _compressed("pack-quantized", weights, tensors, [name for name in tensors if name != "weight_shape"])


CASES["packed-4-group"] = lambda: _packed(4, "group", symmetric=False)
CASES["packed-3-channel"] = lambda: _packed(3, "channel", symmetric=False, rows=24, cols=40)
CASES["packed-8-symmetric"] = lambda: _packed(8, "channel", symmetric=True, rows=8, cols=24)
CASES["packed-5-group"] = lambda: _packed(5, "group", symmetric=True, rows=8)


@case
def int_quantized():
    weights = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"}
    tensors = {
        "weight": words(16, 32, dtype=torch.int8),
        "weight_scale": scales(16, 1, dtype=torch.float32),
        "weight_zero_point": words(16, 1, dtype=torch.int8),
    }
    return _compressed("int-quantized", weights, tensors, list(tensors))


@case
def float_quantized():
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
    tensors = {"weight": torch.randn(16, 32).to(torch.float8_e4m3fn), "weight_scale": scales(1, dtype=torch.bfloat16)}
    return _compressed("float-quantized", weights, tensors, list(tensors))


@case
def float_quantized_blocks():
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [16, 16]}
    tensors = {
        "weight": torch.randn(24, 40).to(torch.float8_e4m3fn),
        "weight_scale": scales(2, 3, dtype=torch.float32),
    }
    return _compressed("float-quantized", weights, tensors, list(tensors))


@case
def nvfp4():
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    tensors = {
        "weight_packed": words(16, 16, dtype=torch.uint8),
        "weight_scale": torch.rand(16, 2).mul(200).to(torch.float8_e4m3fn),
        "weight_global_scale": torch.tensor([3417.25]),
    }
    return _compressed("nvfp4-pack-quantized", weights, tensors, list(tensors))


def _microscaled(bits, format, width, dtype) -> Case:
    weights = {"num_bits": bits, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32}
    packed = "weight" if bits == 8 else "weight_packed"
    codes = torch.randn(8, width).to(dtype) if bits == 8 else words(8, width, dtype=dtype)
    tensors = {packed: codes, "weight_scale": torch.randint(110, 130, (8, 2), dtype=torch.uint8)}
    return _compressed(format, weights, tensors, list(tensors))


CASES["mxfp4"] = lambda: _microscaled(4, "mxfp4-pack-quantized", 32, torch.uint8)
CASES["mxfp6"] = lambda: _microscaled(6, "mxfp6-pack-quantized", 48, torch.uint8)
CASES["mxfp8"] = lambda: _microscaled(8, "mxfp8-quantized", 64, torch.float8_e4m3fn)


def _four_bits(kind, *, nested, rows=24, cols=40, storage=torch.uint8, dtype=torch.float16, block=64) -> Case:
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(
        torch.randn(rows, cols, dtype=dtype), blocksize=block, quant_type=kind, compress_statistics=nested,
        quant_storage=storage,
    )  # fmt: skip
    parts = {f"layer.weight.{name}": t.contiguous() for name, t in state.as_dict(packed=True).items()}

    def read(held):
        own = {name.removeprefix("layer."): t for name, t in held.items() if name != "layer.weight"}
        return bnb.dequantize_4bit(held["layer.weight"], bnb.QuantState.from_dict(own, torch.device("cpu")))

    hit = ["layer.weight", *(n for n in parts if n.endswith(("absmax", "nested_quant_map")))]
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Case({"layer.weight": packed, **parts}, read, hit, config)


# Rows that are whole blocks, or no whole pairs of them: on others the library's kernel for AVX-512 mixes up the scales.
CASES["nf4"] = lambda: _four_bits("nf4", nested=False)
CASES["nf4-nested"] = lambda: _four_bits("nf4", nested=True, rows=150, cols=130, dtype=torch.bfloat16)
CASES["fp4-in-bf16"] = lambda: _four_bits("fp4", nested=False, storage=torch.bfloat16, rows=16, cols=64)


@case
def llm_int8():
    import bitsandbytes.functional as bnb

    tensors = {
        "layer.weight": words(16, 32, dtype=torch.int8),
        "layer.SCB": scales(16, dtype=torch.float32) * 100,
        "layer.weight_format": torch.tensor(0, dtype=torch.uint8),
    }

    def read(held):
        return bnb.int8_vectorwise_dequant(held["layer.weight"], held["layer.SCB"])

    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return Case(tensors, read, ["layer.weight", "layer.SCB"], config)


def _torchao(made) -> Case:
    from torchao.prototype.safetensors.safetensors_support import (
        flatten_tensor_state_dict,
        unflatten_tensor_state_dict,
    )

    tensors, metadata = flatten_tensor_state_dict({"layer.weight": made})

    def read(held):
        return unflatten_tensor_state_dict(held, metadata)[0]["layer.weight"].dequantize()

    return Case(tensors, read, list(tensors), {"quant_method": "torchao"}, metadata)


@case
def torchao_intx():
    from torchao.quantization import IntxUnpackedToInt8Tensor, MappingType

    return _torchao(
        IntxUnpackedToInt8Tensor.from_hp(
            torch.randn(16, 64, dtype=torch.bfloat16), (1, 32), torch.int4, mapping_type=MappingType.ASYMMETRIC
        )
    )


@case
def torchao_int8():
    from torchao.quantization import Int8Tensor, PerRow

    return _torchao(Int8Tensor.from_hp(torch.randn(16, 32, dtype=torch.bfloat16), granularity=PerRow()))


@case
def torchao_float8():
    from torchao.quantization import Float8Tensor, PerRow

    return _torchao(Float8Tensor.from_hp(torch.randn(16, 32, dtype=torch.bfloat16), granularity=PerRow()))


def _fp8(scale: Tensor) -> Case:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    tensors = {"layer.weight": torch.randn(32, 48).to(torch.float8_e4m3fn), "layer.weight_scale_inv": scale}

    def read(held):
        return Fp8Dequantize(None)._dequantize_one(held["layer.weight"], held["layer.weight_scale_inv"], torch.bfloat16)

    config = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    return Case(tensors, read, list(tensors), config, dtype="bfloat16")


CASES["fp8-blocks"] = lambda: _fp8(scales(2, 3, dtype=torch.float32))
CASES["fp8-exponents"] = lambda: _fp8(torch.randint(110, 130, (2, 3), dtype=torch.uint8))


@case
def gpt_oss():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = {
        "layer.up_blocks": words(2, 12, 2, 16, dtype=torch.uint8),
        "layer.up_scales": torch.randint(110, 130, (2, 12, 2), dtype=torch.uint8),
    }

    def read(held):
        return convert_moe_packed_tensors(held["layer.up_blocks"], held["layer.up_scales"])

    return Case(tensors, read, list(tensors), {"quant_method": "mxfp4"}, dtype="bfloat16")


@case
def modelopt_nvfp4():
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    tensors = {
        "layer.weight": words(16, 16, dtype=torch.uint8),
        "layer.weight_scale": torch.rand(16, 2).mul(200).to(torch.float8_e4m3fn),
        "layer.weight_scale_2": torch.tensor(0.000317),
    }

    def read(held):
        codes = NVFP4QTensor(torch.Size([16, 32]), torch.bfloat16, held["layer.weight"])
        how = {"scale": held["layer.weight_scale"], "double_scale": held["layer.weight_scale_2"]}
        return codes.dequantize(torch.bfloat16, block_sizes={-1: 16}, **how)

    return Case(tensors, read, list(tensors), {"quant_method": "modelopt", "quant_algo": "NVFP4"}, dtype="bfloat16")


@case
def modelopt_fp8():
    from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor

    tensors = {"layer.weight": torch.randn(16, 32).to(torch.float8_e4m3fn), "layer.weight_scale": torch.tensor(0.0123)}

    def read(held):
        codes = FP8QTensor(torch.Size([16, 32]), torch.bfloat16, held["layer.weight"])
        return codes.dequantize(torch.bfloat16, scale=held["layer.weight_scale"])

    return Case(tensors, read, list(tensors), {"quant_method": "modelopt", "quant_algo": "FP8"}, dtype="bfloat16")


def flipped(tensor: Tensor, rng: random.Random) -> tuple[Tensor, np.ndarray, np.ndarray]:
    bits = 8 * tensor.element_size()
    held = tensor.contiguous().view(-1).view({8: torch.uint8, 16: torch.int16, 32: torch.int32}[bits]).numpy().copy()
    held = held.view(f"u{bits // 8}")
    at = np.array(sorted(rng.sample(range(len(held)), min(FLIPS, len(held)))))
    masks = np.array([1 << rng.randrange(bits) for _ in at], dtype=np.uint64)
    held[at] ^= masks.astype(held.dtype)
    back = torch.from_numpy(held.view(f"i{bits // 8}")).view(tensor.dtype).view(tensor.shape)
    return back, at.astype(np.int64), masks


def make(name: str) -> None:
    torch.manual_seed(7)
    rng = random.Random(name)
    made, folder = CASES[name](), HERE / name
    folder.mkdir(exist_ok=True)
    tensors = {key: t.contiguous() for key, t in made.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata=made.metadata)
    config = {**({"dtype": made.dtype} if made.dtype else {}), "quantization_config": made.config}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    after, faults = dict(tensors), {}
    for key in made.hit:
        after[key], at, masks = flipped(tensors[key], rng)
        faults |= {f"{key}:words": torch.from_numpy(at), f"{key}:masks": torch.from_numpy(masks.view(np.int64))}
    expected = {"weight": made.read(dict(tensors)), "hit": made.read(after)}
    expected = {key: t.detach().contiguous().clone() for key, t in expected.items()}
    save_file({**expected, **faults}, HERE / f"{name}.expected.safetensors")


if __name__ == "__main__":
    for asked in sys.argv[1:] or CASES:
        make(asked)
