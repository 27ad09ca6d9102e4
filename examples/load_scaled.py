"""How a device restores the weights of a scaled checkpoint: numpy and safetensors, nothing else.

python examples/load_scaled.py model.scaled.safetensors
"""

import json
import sys

import numpy as np
from safetensors import safe_open


def load_scaled(path: str) -> dict[str, np.ndarray]:
    """Return the tensors of a checkpoint that `faultcli scale` wrote, divided by their factors."""
    with safe_open(path, framework="numpy") as file:
        factors = json.loads(file.metadata()["faultcli.scale"])["factors"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, factor in factors.items():
        c = np.reshape(factor, (-1,) + (1,) * (tensors[name].ndim - 1)) if isinstance(factor, list) else factor
        tensors[name] = (tensors[name].astype(np.float64) / c).astype(tensors[name].dtype)
    return tensors


if __name__ == "__main__":
    for name, tensor in load_scaled(sys.argv[1]).items():
        print(f"{name:30} {tensor.dtype} {list(tensor.shape)} {tensor.min():.4f} … {tensor.max():.4f}")
