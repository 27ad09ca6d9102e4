"""A regression under bit flips: no classes, so the network is judged by a score of one's own.

    python examples/score_regression.py

The same from a shell, with the functions of this file:

    faultcli campaign sine.safetensors --arch score_regression:network --score score_regression:score --ber 1e-3 \
        --format q2.5 --gate 'r2>=0.5' --bounds r2=-1:1
"""

import torch
from torch import nn

import faultcli as fc


def network() -> nn.Module:
    """Two numbers in, one out."""
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))


def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [500, 2] and what a perfect network would say of them [500, 1]."""
    inputs = torch.rand(500, 2, generator=torch.Generator().manual_seed(1)) * 4 - 2
    return inputs, (inputs[:, :1] * inputs[:, 1:]).sin()


def score(model: nn.Module) -> dict[str, float]:
    """R², which a ruined network may not pull below -1, and the mean squared error."""
    inputs, wanted = points()
    error = (model(inputs) - wanted).square().mean()
    return {"r2": max(-1.0, float(1 - error / wanted.var())), "mse": float(error)}


def train() -> nn.Module:
    """Return a trained network; takes a second."""
    torch.manual_seed(0)
    model, (inputs, wanted) = network(), points()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), wanted).backward()
        optimizer.step()
    return model


def main() -> None:
    """Compare two memories of 8 bits on the same faults, and gate on R²."""
    subject = fc.Subject.of(train(), score=score)
    chains = ["none", "scale=max:channel,inplace=1"]
    bounds = {"r2": (-1.0, 1.0)}  # a gate needs to know what the worst is
    how = {"formats": ["q2.5"], "protect": chains, "trials": 200}
    result = fc.run_campaign(subject, "bitflip:1e-3", gates=["r2>=0.5"], bounds=bounds, **how)
    for arm in result.arms:
        print(f"{arm.arm.label}: R² {arm.score('r2')}, {arm.gates[0].verdict} after {len(arm.records)} trials")


if __name__ == "__main__":
    main()
