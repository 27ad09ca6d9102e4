"""How fast a classifier's answers move away from what they are when its weights change, to second order.

The divergence of the answers, KL(p‖q) in nats, is about ½ Σ h·δ² for changes δ of the weights that have nothing to do
with each other, as rounding errors and faults have. h is the diagonal of JᵀHJ, with J the Jacobian of the logits and
H = diag(p) − ppᵀ (the Gauss-Newton matrix, for a softmax the Fisher information). Random signs r give it without J: the
gradient of (√p·r − p(√p·r))·logits has the squares h on average, for many weights at a cost of one backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from faultcli.checkpoint.locate import some
from faultcli.errors import WorkloadError
from faultcli.workload.classifier import Workload


def curvature(workload: Workload, names: Sequence[str], seed: int = 0) -> dict[str, Tensor]:
    """Return h of every weight, a mean over the inputs, for the weights that the model holds now.

    Args:
        workload: is left as it was.
        names: tensors of the checkpoint.
        seed: of the signs.

    Returns:
        float32, in the shape of each tensor, on the CPU; 0 where no answer depends on a weight.

    Raises:
        WorkloadError: the network gives no gradients by these tensors.
    """
    live = _own_parameters(workload, names)
    before = {name: tensor.requires_grad for name, tensor in live.items()}
    found = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in live.items()}
    generator = torch.Generator().manual_seed(seed)
    try:
        for tensor in live.values():
            tensor.requires_grad_(True)
        with torch.enable_grad():
            for _, logits in workload.logits_by_batch():
                if logits.grad_fn is None:
                    problem = f"{workload.architecture.name}: computes without gradients"
                    raise WorkloadError(problem, "pass a network that PyTorch can differentiate")
                root = logits.detach().softmax(-1).sqrt()
                signed = root * (torch.randint(0, 2, root.shape, generator=generator) * 2 - 1).to(root)
                direction = signed - root.square() * (root * signed).sum(-1, keepdim=True)
                said = (direction * logits).sum()
                gradients = torch.autograd.grad(said, list(live.values()), allow_unused=True)
                for name, gradient in zip(live, gradients, strict=True):
                    if gradient is not None:
                        found[name] += gradient.float().square().nan_to_num(0.0)
    finally:
        for name, tensor in live.items():
            tensor.requires_grad_(before[name])
    return {name: (total / len(workload)).cpu() for name, total in found.items()}


def _own_parameters(workload: Workload, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the model's parameters that hold these tensors."""
    own = {(one.data_ptr(), one.shape): one for one in workload.model.parameters() if one.is_floating_point()}
    live: dict[str, Tensor] = {}
    for name in names:
        tensor = workload.parameters[name]
        found = own.get((tensor.data_ptr(), tensor.shape)) if isinstance(tensor, Tensor) else None
        if found is None or not found.is_leaf:
            architecture = workload.architecture.name
            problem = f"{architecture}: no gradient by {some([name])}, which is no parameter of the model as it is"
            raise WorkloadError(problem, f"leave it out: --exclude {name!r}")
        live[name] = found
    return live
