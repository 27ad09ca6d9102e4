"""Architectures from exported programs, the `FILE.pt2` of torch.export.

Loading one can run pickled code: nothing here may ever be called with a name that came from a checkpoint.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.bounded import Shapes

SUFFIX = ".pt2"


def exported_architecture(spec: str, _: Path | None = None, __: Shapes | None = None) -> Architecture:
    """Return the architecture of an exported program.

    It may have been exported without its weights (on the meta device); those that it has are replaced by the
    checkpoint's. A program that was exported without weights does not say which of them are tied: the checkpoint then
    has to have all. Images are scaled to 0 to 1 and not normalised, because the file says nothing about that.

    Raises:
        WorkloadError: there is no such file, it is no exported program, it takes several inputs, or a constant of it
            has no values.
    """
    program = _load(Path(spec))
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise WorkloadError(f"{spec}: takes {len(inputs)} inputs ({', '.join(map(str, inputs))})", "one is needed")
    empty = [name for name, value in program.constants.items() if isinstance(value, Tensor) and value.is_meta]
    if empty:
        problem = f"{spec}: the constant {empty[0]!r} was exported without its values"
        raise WorkloadError(problem, "export the module from the CPU, or register the constant as a buffer")
    (node,) = [node for node in program.graph.nodes if node.op == "placeholder" and node.name == inputs[0]]
    batch, *shape = node.meta["val"].shape
    return Architecture(
        name=spec,
        build=partial(_build, Path(spec)),
        input_shape=tuple(shape) if all(isinstance(size, int) for size in shape) else None,
        batch=batch if isinstance(batch, int) else None,
    )


def _load(path: Path) -> torch.export.ExportedProgram:
    if not path.is_file():
        raise WorkloadError(f"{path}: there is no such file", "--arch FILE.pt2 takes what torch.export.save wrote")
    try:
        return torch.export.load(path)
    except Exception as error:  # a zip of anything: what can go wrong has no bounds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkloadError(
            f"{path}: is no exported program that this torch {torch.__version__} can read: {reason}",
            "write it with torch.export.save",
        ) from error


def _build(path: Path) -> nn.Module:
    module = _load(path).module()
    held: dict[int, Tensor] = {}
    state = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        # Tensors on the meta device cannot be copied into, so each is given storage; tied ones the same. That they are
        # tied is known from their storage only, and so not of those on the meta device.
        key = tensor.data_ptr() or id(tensor)
        state[name] = held.setdefault(key, torch.empty_like(tensor, device="cpu", requires_grad=False))
    module.load_state_dict(state, assign=True)
    module.training = False  # an exported program has one mode only, and its eval() raises
    return module
