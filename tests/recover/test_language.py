"""The corrector of language models: on logits made up of a Markov chain, and on the small Llama."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from faultcli.cli import run
from faultcli.recover.applied import known_tokens
from faultcli.recover.base import Card, CorrectorError
from faultcli.recover.damaged_logits import Copy, LabelledLogits
from faultcli.recover.file import load_corrector, save_corrector
from faultcli.recover.language import HEATS, HeatCase, LanguageCorrector, _shares, best_heat, divergence, heat_steps
from faultcli.recover.methods import TrainingOptions, train_corrector
from faultcli.workload.data.tokens import TokenDataset

V, WINDOW = 12, 150


def text(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model that knows the chain which the tokens come from, and the tokens."""
    chain = 1.5 * np.random.default_rng(1).standard_normal((V, V)) + 1.2 * np.random.default_rng(2).standard_normal(V)
    random, tokens = np.random.default_rng(seed), [0]
    for _ in range(n):
        tokens.append(int(random.choice(V, p=softmax(chain[tokens[-1]]))))
    logits = chain[tokens[:-1]] + 0.2 * random.standard_normal((n, V))
    return torch.from_numpy(logits).float(), torch.tensor(tokens[1:])


def damage(clean: torch.Tensor, strength: float, seed: int) -> torch.Tensor:
    """Too sure, shifted, and mixed with noise."""
    random = np.random.default_rng(seed)
    shift = torch.from_numpy(2 * random.standard_normal(V)).float()
    noise = torch.from_numpy(3 * random.standard_normal(tuple(clean.shape))).float()
    return (1 + strength) * (clean + strength * (shift + noise))


def loss(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, labels))


@pytest.fixture(scope="module")
def trained() -> LanguageCorrector:
    clean, labels = text(900, 3)
    strengths = (0.05, 0.05, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0)
    copies = tuple(Copy(f"made-up:{s}", seed, damage(clean, s, seed)) for seed, s in enumerate(strengths))
    found = train_corrector("language", LabelledLogits(clean, labels, copies), Card(V), TrainingOptions(WINDOW))
    assert isinstance(found, LanguageCorrector)
    return found


def test_perplexity_comes_back_and_no_answer_changes(trained: LanguageCorrector) -> None:
    falls = []
    for seed in range(100, 108):
        clean, labels = text(700, seed)
        logits = damage(clean, 0.8, seed)  # a level, text and maps of its own
        rest, truth = logits[WINDOW:], labels[WINDOW:]
        corrected = trained.observe(logits[:WINDOW])(rest)
        falls.append(loss(rest, truth) - loss(corrected, truth))
        assert torch.equal(corrected.argmax(1), rest.argmax(1))
    assert np.mean(falls) > 0.5


def test_a_healthy_model_is_left_alone(trained: LanguageCorrector) -> None:
    for seed in range(200, 212):
        logits, _ = text(WINDOW, seed)
        correction = trained.observe(logits)
        assert correction.is_identity
        assert "as frequent as" in correction.reason


def test_severity_is_the_divergence_of_mean_probabilities() -> None:
    logits, _ = text(300, 5)
    rows = logits.double().numpy()
    np.testing.assert_allclose(_shares(logits.numpy()), softmax(rows, axis=1).mean(axis=0), atol=1e-12)
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.9, 0.0])
    mixed = 0.99 * q + 0.01 * p
    assert divergence(np.log(p), q) == pytest.approx(sum(p * np.log(p / mixed)))
    assert divergence(np.log(p), p) == pytest.approx(0)


def case(copy: int, severity: float, falls: dict[int, float]) -> HeatCase:
    return HeatCase(copy, severity, np.array([falls.get(at, 0.0) for at in range(len(HEATS))]))


def test_steps_are_of_the_windows_that_are_nearest() -> None:
    random = np.random.default_rng(7)
    cases = [case(at, float(random.random()), {at % 7: 1.0 + at}) for at in range(20)]
    upper, heats = heat_steps(cases)
    assert len(set(heats)) > 3
    for severity in np.linspace(0, 1, 41):
        nearest = sorted(cases, key=lambda one: abs(one.severity - severity))[:6]
        assert heats[min(int(np.searchsorted(upper, severity)), len(upper) - 1)] == best_heat(nearest)


def test_what_is_not_sure_is_not_done() -> None:
    assert best_heat([case(at, 1.0, {4: 0.5, 3: 0.2}) for at in range(4)]) == HEATS[4]
    assert best_heat([case(at, 1.0, {4: fall, 3: 0.2}) for at, fall in enumerate((1.5, -0.9, 0.9))]) == HEATS[3]
    assert best_heat([case(at, 1.0, {4: fall}) for at, fall in enumerate((1.0, -0.9, 0.9, -0.8))]) == 1
    assert best_heat([case(0, 1.0, {4: 0.5}) for _ in range(6)]) == 1  # windows of one copy are one case


def test_damaged_files_are_named(trained: LanguageCorrector, tmp_path: Path) -> None:
    from dataclasses import replace

    bad = {
        "contradict": replace(trained, upper=trained.upper[::-1].copy()),
        "heats": replace(trained, heats=0 * trained.heats),
        "log_share": replace(trained, log_share=trained.log_share[:5]),
    }
    for message, corrector in bad.items():
        save_corrector(corrector, tmp_path / "c.safetensors", force=True)
        with pytest.raises(CorrectorError, match=message):
            load_corrector(tmp_path / "c.safetensors")


def test_known_tokens_are_none_that_are_evaluated() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 7, 8], [1, 1, 1]])
    tokens = TokenDataset(ids, torch.tensor([3, 2, 3, 3]), "text")
    evaluated = tokens.rows(torch.tensor([0, 2]))
    known = known_tokens(tokens, 2, evaluated)
    assert [known.ids[row, :n].tolist() for row, n in enumerate(known.lengths.tolist())] == [[4, 5], [1, 1]]
    with pytest.raises(Exception, match="--labelled 4: there are 3 tokens"):
        known_tokens(tokens, 4, evaluated)


@pytest.fixture(scope="module")
def llama(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("llama")
    stories = data_dir / "stories260k"
    about = [str(stories / "hf"), "--data", str(stories / "eval_tokens.safetensors"), "--limit", "1", "--quiet"]
    text = ["--train-data", str(stories / "eval_tokens_valid_head.safetensors"), "--train-limit", "1500"]
    fault = ["--fault", "gaussian:0.06", "--maps", "3", "--report-maps", "2", "--window", "300"]
    output = ["-o", str(folder / "c.safetensors"), "--json", str(folder / "r.json"), "--report", str(folder / "r.md")]
    assert run(["train-corrector", *about, *text, *fault, *output]) == 0
    return [*about, "--unlabelled", text[1]], folder


def test_it_is_trained_and_reported_with_perplexity(llama: tuple[list[str], Path]) -> None:
    document = json.loads((llama[1] / "r.json").read_text())
    assert (document["method"], document["classes"]) == ("language", 512)
    healthy, level = document["levels"]
    assert healthy["tokens"]["loss_fall"]["mean"] == 0
    assert level["tokens"]["corrected_perplexity"] < 0.7 * level["tokens"]["corrupted_perplexity"]
    assert level["tokens"]["loss_fall"]["mean"] == pytest.approx(
        np.log(level["tokens"]["corrupted_perplexity"] / level["tokens"]["corrected_perplexity"])
    )
    assert "| perplexity | nats back |" in (llama[1] / "r.md").read_text()


def test_campaigns_correct_what_the_library_corrects(llama: tuple[list[str], Path]) -> None:
    import faultcli as fc
    from faultcli.recover.applied import Correct

    about, folder = llama
    asked = ["--fault", "gaussian:0.05", "--trials", "1", "--window", "300", "--seed", "5"]
    corrector = folder / "c.safetensors"
    done = run(["campaign", *about, *asked, "--corrector", str(corrector), "--json", str(folder / "c.json")])
    assert done == 0
    arm = json.loads((folder / "c.json").read_text())["arms"][1]

    subject = fc.Subject.open(about[0], about[2], limit=1).looking_at(about[-1])
    workload, text = subject.answering(""), subject.unlabelled
    assert isinstance(text, TokenDataset)
    window = workload.beside(text.first_targets(300)[0])
    memory = subject.memory()
    with memory.patch(memory.draw(fc.parse_law("gaussian:0.05"), seed=5, trial=0)).applied(workload.parameters):
        correction = Correct.load(corrector, 300).corrector.observe(window.logits())
        logits = correction(workload.logits())
    assert not correction.is_identity
    assert arm["perplexity"]["mean"] == pytest.approx(np.exp(loss(logits, workload.labels)), rel=1e-4)
    right = float((logits.argmax(1) == workload.labels).double().mean())
    assert arm["trial_accuracies"] == pytest.approx([right])


def test_what_does_not_fit_is_refused(llama: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    about, folder = llama
    stories = about[:3]
    cases: list[tuple[list[str], str]] = [
        (["train-corrector", *stories, "--ber", "1e-4", "--method", "mixture"], "which is a language model"),
        (["train-corrector", "--ber", "1e-4", "--method", "language"], "which is a classifier"),
        (["train-corrector", *stories, "--ber", "1e-4", "--window", "1000"], "too few for a window of 1000"),
        (["evaluate", *about, "--corrector", str(folder / "c.safetensors"), "--window", "50000"], "looks at 50000"),
        (["evaluate", *about, "--corrector", str(folder / "c.safetensors"), "--labelled", "50000"], "--labelled 50000"),
        (["campaign", *about, "--ber", "1e-4", "--recalibrate", "bn"], "works on classifiers"),
    ]
    for arguments, message in cases:
        capsys.readouterr()
        assert run(arguments) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert message in error
        assert "Traceback" not in error
