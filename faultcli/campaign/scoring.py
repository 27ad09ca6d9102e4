"""How a model in memory is judged: by the class it answers, or by a score."""

from __future__ import annotations

from typing import Any

from faultcli.errors import UsageError
from faultcli.faults.selection import Selecting
from faultcli.workload.answers import Pick, answer_picker
from faultcli.workload.score import Changed, MetricScore, Score, ScoreTask, score_name


class Scoring(Selecting, total=False):
    """How a model in memory is judged other than by the class it answers, and what of it is at risk.

    `score`: called with the model; returns a number or numbers by name. `metric`: with `update` and `compute`, as those
    of torchmetrics, or what makes one when it is called; gone through with batches (inputs, targets) of the data.
    `changed`: compares what a call of the model returned without faults and with them, and says for every input whether
    its answer is another one; without it a run is one answer. `answer`: which part of what the model returns counts: a
    field, key or position, or a function; the field `logits` or the first tensor if nothing is said.
    """

    score: Score | None
    metric: Any
    changed: Changed | None
    answer: str | Pick | None


def score_task(data: Any, scoring: Scoring) -> ScoreTask | None:
    """Return what a model is asked if not for classes."""
    score, metric, changed = scoring.get("score"), scoring.get("metric"), scoring.get("changed")
    if score is not None and (metric is not None or data is not None):
        raise UsageError("score=: looks at data of its own", "leave data and metric out, or score out")
    if metric is not None:
        if data is None:
            raise UsageError("metric=: needs batches (inputs, targets)", "pass a DataLoader")
        by_metric = MetricScore(data, metric, answer_picker(scoring.get("answer")))
        return ScoreTask(by_metric, score_name(metric), changed, by_metric.inputs, "data in memory")
    if score is not None:
        return ScoreTask(score, score_name(score), changed)
    if changed is not None:
        raise UsageError("changed=: compares the answers of a task with a score", "pass score=fn or metric=…")
    if data is None:
        raise UsageError("there is nothing to run the model on", "pass a DataLoader, or a score of your own: score=fn")
    return None
