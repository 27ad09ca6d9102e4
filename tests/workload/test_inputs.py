"""What enters a network besides images: integers as they are, several inputs by name, batches of different widths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import faultcli as fc
from faultcli.errors import WorkloadError
from faultcli.workload.answers import described
from faultcli.workload.classifier import Workload
from faultcli.workload.data.labelled import make_dataset

IDS = torch.randint(0, 20, (12, 5), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(5) < torch.tensor([5, 3, 4, 1, 5, 2, 5, 3, 4, 1, 5, 2])[:, None]).long()
LABELS = torch.arange(12) % 3

MODULE = """
import numpy as np, torch
from torch import nn
class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)
    def forward(self, input_ids, attention_mask=None, weights=None):
        assert input_ids.dtype in (torch.int32, torch.int64)
        rows = self.table(input_ids)
        if attention_mask is not None:
            rows = rows * attention_mask[..., None].to(rows.dtype)
        if weights is not None:
            rows = rows * weights[:, None, None]
        return self.head(rows.sum(1))
class Plain(Words):
    def forward(self, x):
        return super().forward(x)
class Anything(Words):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)
class Swapped(Words):
    def forward(self, attention_mask, input_ids):
        return super().forward(input_ids, attention_mask)
def pair():
    return np.arange(60).reshape(12, 5) % 20, np.arange(12) % 3
def named():
    ids, labels = pair()
    return {"input_ids": ids, "attention_mask": np.ones((12, 5), bool), "label": labels}
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "wordnets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "wordnets", raising=False)
    made = __import__("wordnets").Words()
    save_file(made.state_dict(), tmp_path / "m.safetensors")
    return made


def logits_of(tmp_path: Path, network: str, data: str) -> Tensor:
    workload = fc.Subject.open(tmp_path / "m.safetensors", data, arch=f"wordnets:{network}", device="cpu").workload
    assert isinstance(workload, Workload)
    return workload.logits()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_integers_of_every_width_pass_as_they_are(words: Any, dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    arrays = {"input_ids": IDS.to(dtype), "attention_mask": MASK.to(dtype), "labels": LABELS}
    path = tmp_path / f"d.{suffix}"
    if suffix == "npz":
        np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
    else:
        save_file(arrays, path)
    expected = words(IDS, MASK).detach()
    for network in ("Words", "Anything", "Swapped"):
        assert torch.equal(logits_of(tmp_path, network, str(path)), expected), network
    assert torch.equal(logits_of(tmp_path, "Plain", str(path)), words(IDS).detach())


def test_further_inputs_go_by_name_and_what_is_left_is_said(words: Any, tmp_path: Path) -> None:
    weights = torch.linspace(0.5, 2, 12)
    arrays = {"input_ids": IDS, "weights": weights, "labels": LABELS, "row": torch.arange(12)}
    save_file(arrays, tmp_path / "d.safetensors")
    subject = fc.Subject.open(
        tmp_path / "m.safetensors", str(tmp_path / "d.safetensors"), arch="wordnets:Words", device="cpu", batch_size=5
    )
    assert isinstance(subject.workload, Workload)
    assert torch.equal(subject.workload.logits(), words(IDS, weights=weights).detach())
    assert [note for note in subject.workload.doubts() if "'row': not given to the network" in note]
    other = fc.Subject.open(tmp_path / "m.safetensors", str(tmp_path / "d.safetensors"), arch="wordnets:Plain")
    assert other.workload.data_sha256() != subject.workload.data_sha256()  # what the network is given counts


@pytest.mark.parametrize("name", ["pair", "named"])
def test_factories_of_data_give_integers(words: Any, name: str, tmp_path: Path) -> None:
    ids = torch.arange(60).reshape(12, 5) % 20
    assert torch.equal(logits_of(tmp_path, "Words", f"wordnets:{name}"), words(ids).detach())


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 1, 8, 8)])
def test_images_that_are_stored_as_other_integers_are_no_images(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", inputs=np.zeros(shape, np.int64), labels=np.arange(4))
    digits = fc.Subject.open(data=str(tmp_path / "d.npz"), device="cpu").workload
    with pytest.raises(WorkloadError, match=r"does not take torch.int64 inputs of shape .*\(images have to be uint8\)"):
        digits.outcome()


def batches(parts: dict[str, Tensor], *, keep: int = 5) -> Iterator[dict[str, Tensor]]:
    """As a collator pads: every batch to its own longest."""
    for start in range(0, 12, keep):
        rows = slice(start, start + keep)
        width = int(MASK[rows].sum(1).max())
        yield {name: value[rows, :width] if value.dim() > 1 else value[rows] for name, value in parts.items()}


class Watching(nn.Module):
    """Remembers the widths that it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.widths = inner, list[int]()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        self.widths.append(input_ids.shape[1])
        return {"logits": self.inner(input_ids, attention_mask)}


def test_a_loader_of_batches_by_name_is_given_to_the_model_as_it_came(words: Any) -> None:
    parts = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS, "idx": torch.arange(12)}
    model = Watching(words)
    subject = fc.Subject.of(model, list(batches(parts, keep=2)))
    assert isinstance(subject.workload, Workload)
    assert torch.allclose(subject.workload.logits(), words(IDS, MASK).detach(), atol=1e-6)
    assert model.widths == [5, 4, 5, 4, 5]  # neighbours of one width together
    assert subject.workload.labels.tolist() == LABELS.tolist()
    assert [note for note in subject.workload.doubts() if "idx: not given to the model" in note]
    result = fc.run_campaign(subject, ["flips:3"], trials=2)
    assert result.arms[0].records[0].outcome.n == 12


def test_pairs_with_integers_or_with_inputs_by_name(words: Any) -> None:
    plain = fc.Subject.of(words, (IDS, LABELS)).workload
    named = fc.Subject.of(words, [({"input_ids": IDS, "attention_mask": MASK}, LABELS)]).workload
    assert isinstance(plain, Workload)
    assert isinstance(named, Workload)
    assert torch.equal(plain.logits(), words(IDS).detach())
    assert torch.equal(named.logits(), words(IDS, MASK).detach())
    shorter = [(IDS[:6], LABELS[:6]), (IDS[6:, :3], LABELS[6:])]
    ragged = fc.Subject.of(words, shorter).workload
    assert isinstance(ragged, Workload)
    assert torch.equal(ragged.logits(), torch.cat([words(ids) for ids, _ in shorter]).detach())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"input_ids": IDS}], "a batch is a dict and no pair"),
        ([{"input_ids": IDS, "labels": LABELS}, {"labels": LABELS}], "a batch is a dict and no pair"),
        (
            [{"input_ids": IDS, "labels": LABELS}, {"ids": IDS, "labels": LABELS}],
            "batches hold input_ids, and then ids",
        ),
        (
            [(torch.ones(2, 3, 4, 4), LABELS[:2]), (torch.ones(2, 3, 5, 5), LABELS[:2])],
            "inputs of a batch are of shape",
        ),
        (
            ({"input_ids": IDS, "attention_mask": MASK[:3]}, LABELS),
            r"attention_mask is of shape \[3, 5\], and there are 12",
        ),
    ],
)
def test_batches_that_are_none(words: Any, data: Any, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        fc.Subject.of(words, data)


def test_rows_of_a_data_set_keep_all_their_inputs() -> None:
    data = make_dataset({"input_ids": IDS, "attention_mask": MASK}, LABELS, "d")
    order = torch.tensor([3, 0, 7])
    some = data.rows(order)
    assert torch.equal(some.inputs, IDS[order])
    assert torch.equal(some.others["attention_mask"], MASK[order])
    assert some.labels.tolist() == [0, 0, 1]
    assert data.first(3).sha256() == data.rows(torch.arange(3)).sha256() != some.sha256()
    assert data.sha256() != make_dataset(IDS, LABELS, "d").sha256()


def test_what_a_model_returned_is_named() -> None:
    assert described({"out": torch.ones(2, 3)}) == "dict (out: float32 [2, 3])"
    assert described((torch.ones(1, dtype=torch.int64), "x")) == "tuple (0: int64 [1], 1: str)"
    assert described(None) == "NoneType"
