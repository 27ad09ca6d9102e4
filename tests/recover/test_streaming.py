"""The corrector around a deployed model."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from synthetic import CLASSES, accuracy, clean_logits, damaged, labelled, labels_of

from faultcli.recover.base import Card, CorrectorError
from faultcli.recover.edmn import EdmnOptions
from faultcli.recover.methods import TrainingOptions, train_corrector
from faultcli.recover.streaming import StreamingCorrector

DATA = labelled(1000, 2)


def test_it_waits_for_its_window_and_then_corrects() -> None:
    stream = StreamingCorrector(train_corrector("align", DATA, Card(CLASSES)), window=200)
    labels = labels_of(1000, 8)
    logits = torch.from_numpy(damaged(clean_logits(labels, 9), 1.0, 55)).float()
    answers = [stream(batch) for batch in logits.split(64)]
    assert torch.equal(torch.cat(answers[:3]), logits[:192])
    corrected = torch.cat(answers)[320:]
    assert accuracy(corrected, labels[320:]) > accuracy(logits[320:], labels[320:]) + 0.1


def test_the_window_holds_the_newest_answers() -> None:
    stream = StreamingCorrector(train_corrector("align", DATA, Card(CLASSES)), window=100, refresh=30)
    rows = torch.arange(430.0)[:, None].expand(-1, CLASSES)
    for batch in rows.split(37):
        stream(batch)
    assert sorted(stream._seen[:, 0].tolist()) == [float(x) for x in range(330, 430)]
    stream(rows[:250])  # more at once than the window holds
    assert sorted(stream._seen[:, 0].tolist()) == [float(x) for x in range(150, 250)]


def test_edmn_needs_no_window_and_small_ones_are_refused() -> None:
    options = TrainingOptions(edmn=EdmnOptions(hidden=(16,), epochs=2))
    edmn = train_corrector("edmn", DATA, Card(CLASSES), options)
    stream = StreamingCorrector(edmn)
    logits = DATA.copies[0].logits[:10]
    assert torch.equal(stream(logits), edmn.observe()(logits))
    with pytest.raises(CorrectorError, match="window of 5 inputs"):
        StreamingCorrector(train_corrector("align", DATA, Card(CLASSES)), window=5)
    with pytest.raises(CorrectorError, match="trained for 6 classes"):
        stream(torch.zeros(3, 4))


def test_what_is_no_corrector_no_window_and_no_tensor_is_named() -> None:
    align = train_corrector("align", DATA, Card(CLASSES))
    for arguments, words in (
        (("c.safetensors", {}), "'c.safetensors': is no corrector"),
        ((align, {"window": 150.0}), "window=150.0: is no number of answers"),
        ((align, {"refresh": -5}), "refresh=-5: is no number of answers"),
        ((align, {"labelled": torch.zeros(50, CLASSES)}), "labelled is no pair"),
        ((align, {"labelled": (torch.zeros(50, CLASSES), [0] * 50)}), "labels are list"),
    ):
        with pytest.raises(CorrectorError, match=words):
            StreamingCorrector(arguments[0], **arguments[1])
    stream = StreamingCorrector(align)
    for logits, words in (
        (torch.zeros(CLASSES), r"shape \[6\], and a tensor \[n, 6\]"),
        ([[0.0] * CLASSES], "are list"),
    ):
        with pytest.raises(CorrectorError, match=words):
            stream(logits)


def test_the_example_of_a_deployed_model(capsys: pytest.CaptureFixture[str]) -> None:
    example = Path(__file__).parents[2] / "examples" / "deployed_corrector.py"
    runpy.run_path(str(example), run_name="__main__")
    found = re.search(r"damaged: ([\d.]+)%, corrected: ([\d.]+)%", capsys.readouterr().out)
    assert found is not None
    assert float(found[2]) > float(found[1]) + 20
