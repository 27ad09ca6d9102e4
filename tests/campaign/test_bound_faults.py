"""A trial inside a campaign is the injected file that is then evaluated, however the model has the file's tensors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from faultcli.api import inject
from faultcli.campaign.bench import Bench, Trial, fault_free
from faultcli.campaign.database import StoreError
from faultcli.campaign.executors.parcel import pack, unpack
from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law

transformers = pytest.importorskip("transformers")

VOCABULARY = 53
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
LAW = "bitflip:1e-2,bits=mantissa"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model whose file has the head once, twice or twice and changed; GPT-2 as it was published; experts."""
    root = tmp_path_factory.mktemp("bound")
    torch.manual_seed(0)
    np.savez(root / "tokens.npz", input_ids=torch.randint(0, VOCABULARY, (3, 12)).numpy())
    tied = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, tie_word_embeddings=True))
    for name in ("once", "equal", "different", "head"):
        tied.save_pretrained(root / name)
        state = load_file(root / name / "model.safetensors")
        if name == "head":
            state[HEAD] = state.pop(EMBEDDING)
        elif name != "once":
            state[HEAD] = state[EMBEDDING].clone() if name == "equal" else torch.randn(VOCABULARY, 16) * 0.3
        save_file(state, root / name / "model.safetensors", {"format": "pt"})
    gpt = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(gpt).save_pretrained(root / "now")
    transformers.GPT2LMHeadModel(gpt).save_pretrained(root / "published")
    old = {key.removeprefix("transformer."): t for key, t in load_file(root / "now" / "model.safetensors").items()}
    for layer in range(2):
        old[f"h.{layer}.attn.bias"] = torch.ones(32, 32).tril().view(1, 1, 32, 32)
        old[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(old, root / "published" / "model.safetensors", {"format": "pt"})
    experts = transformers.MixtralConfig(**TINY, num_key_value_heads=1, num_local_experts=3)
    transformers.MixtralForCausalLM(experts).save_pretrained(root / "experts")
    return root


def opened(place: Path, name: str, **options: Any) -> Subject:
    return Subject.open(place / name, str(place / "tokens.npz"), device="cpu", **options)


def losses(place: Path, name: str, **options: Any) -> list[float | None]:
    """Of the trials of a campaign."""
    plan = Plan((Arm("fp16", parse_law(LAW)),), 2)
    return [record.outcome.loss for record in run_campaign(plan, opened(place, name, **options)).arms[0].records]


def transformers_loss(directory: Path, tokens: Path) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = torch.from_numpy(np.load(tokens)["input_ids"])
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()


@pytest.mark.parametrize(
    ("name", "include"),
    [
        ("once", [EMBEDDING]),
        ("head", [HEAD]),
        ("equal", [EMBEDDING]),
        ("equal", [HEAD]),
        ("equal", []),
        ("different", [HEAD]),
        ("published", []),
        ("experts", ["*experts*"]),
    ],
)
def test_a_trial_is_the_injected_file_evaluated(place: Path, tmp_path: Path, name: str, include: list[str]) -> None:
    trials = losses(place, name, include=include)
    assert len(set(trials)) == 2
    for trial, loss in enumerate(trials):
        out = tmp_path / str(trial)
        inject(place / name, LAW, out, format="fp16", include=include, trial=trial)
        assert opened(place, str(out)).workload.outcome().loss == loss
        assert transformers_loss(out, place / "tokens.npz") == pytest.approx(loss, rel=1e-6)


def test_what_is_stored_twice_is_two_and_hit_twice(place: Path) -> None:
    once, equal = opened(place, "once"), opened(place, "equal")
    assert HEAD not in once.tensors
    assert once.workload.outcome().loss == equal.workload.outcome().loss
    own = equal.workload.model.model
    assert own.lm_head.weight.data_ptr() != own.model.embed_tokens.weight.data_ptr()
    for name in (EMBEDDING, HEAD):
        live = equal.workload.parameters[name]
        assert isinstance(live, Tensor)
        assert torch.equal(live, equal.tensors[name])
    different = opened(place, "different").workload.outcome().loss
    assert different == pytest.approx(transformers_loss(place / "different", place / "tokens.npz"), rel=1e-6)


def test_what_nobody_reads_is_not_at_risk_and_said_once(place: Path) -> None:
    subject = opened(place, "published")
    now = opened(place, "now")
    assert {f"transformer.{name}" for name in subject.tensors} == set(now.tensors)
    assert subject.unread == ("h.0.attn.bias", "h.1.attn.bias")
    (said,) = subject.workload.doubts()
    assert said.startswith("the model does not read 4 tensors, 65,600 bits: they are not at risk: ")
    assert opened(place, "published", exclude=["*.attn.bias"]).unread == ()
    one = opened(place, "published", include=["h.0.attn.bias", "wte.weight"])
    assert list(one.tensors) == ["wte.weight"]
    with pytest.raises(UsageError, match=r"no answer depends on h.0.attn.bias, h.1.attn.bias") as info:
        opened(place, "published", include=["h.?.attn.bias"])
    assert info.value.remedy == "name tensors that it reads with --include"


def test_what_is_not_at_risk_is_part_of_what_a_campaign_is(place: Path, tmp_path: Path) -> None:
    plan = Plan((Arm("fp16", parse_law(LAW)),), 3)
    subject = opened(place, "published")
    base = json.loads(subject.identity(plan).base)
    assert base["unread"] == ["h.0.attn.bias", "h.1.attn.bias"]
    assert "unread" not in json.loads(opened(place, "now").identity(plan).base)
    store = Store.open(tmp_path / "run.sqlite")
    first = run_campaign(plan, subject, store=store)
    again = run_campaign(plan, opened(place, "published"), store=store)
    assert [r.outcome.loss for r in again.arms[0].records] == [r.outcome.loss for r in first.arms[0].records]
    assert again.plan_hash == first.plan_hash
    changed = opened(place, "published")
    with pytest.raises(StoreError):
        run_campaign(plan, replace(changed, unread=()), store=store)
    store.close()


def test_laws_that_share_out_see_only_what_is_at_risk(place: Path) -> None:
    """`inject` does not know the model, and shares flips out over the masks as well."""
    law, subject = parse_law("flips:400"), opened(place, "published")
    inside = subject.memory().draw(law, seed=0, trial=0)
    assert inside.flips == 400
    assert not any("attn.bias" in region for region in inside.faults)


def test_a_bench_with_parts_of_tensors_goes_to_workers(place: Path) -> None:
    subject = opened(place, "experts", include=["*experts*"])
    arm = Arm("fp16", parse_law(LAW))
    bench = Bench.set_up(subject, {0: arm}, fault_free(subject.workload), seed=0)
    parcel = pack(bench)
    sent = unpack(parcel.head, [buffer.copy() for buffer in parcel.buffers])
    trial = Trial(0, 4, arm.fault)
    assert sent.run(trial).outcome == bench.run(trial).outcome
    assert sent.run(Trial(0, 5, arm.fault)).outcome != sent.run(trial).outcome
