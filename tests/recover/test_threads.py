"""Small matrices on one thread."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from faultcli.recover.align import Align
from faultcli.recover.base import Card
from faultcli.recover.reference import Reference
from faultcli.recover.threads import one_numpy_thread, one_torch_thread


def numpy_threads() -> int:
    return max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")


def test_one_thread_is_taken_and_the_others_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2, "blas"):
            with one_numpy_thread(), one_torch_thread():
                assert (numpy_threads(), torch.get_num_threads()) == (1, 1)
            assert (numpy_threads(), torch.get_num_threads()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_a_window_is_fitted_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    adapt = Align.adapt
    monkeypatch.setattr(Align, "adapt", lambda self, window: seen.append(numpy_threads()) or adapt(self, window))
    logits = np.random.default_rng(0).standard_normal((60, 3))
    align = Align(Reference.measure(logits, logits.argmax(axis=1)), card=Card(3))
    with threadpool_limits(2, "blas"):
        align.observe(torch.from_numpy(logits))
    assert seen == [1]
