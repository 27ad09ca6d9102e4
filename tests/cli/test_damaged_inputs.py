"""A small part of `python -m benchmarks.fuzz`: damaged files of every kind end in words, not in tracebacks."""

from pathlib import Path

import pytest

from benchmarks import fuzz

CASES = 8  # of every kind


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpus")
    fuzz.make_corpus(place)
    return place


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_files(kind: str, corpus: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    codes = []
    for number in range(CASES):
        arguments, _, code, text = fuzz.run_case(number, 10, kind, corpus, tmp_path / "case")
        assert code in fuzz.ALLOWED, f"{arguments}\n{text}"
        assert "Traceback" not in text
        codes.append(code)
    assert 2 in codes
    assert before == {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}


def test_a_case_is_the_same_every_time(corpus: Path, tmp_path: Path) -> None:
    """So that a number is all that a report needs."""
    contents = []
    for place in ("a", "b"):
        fuzz.run_case(3, 0, "corrector", corpus, tmp_path / place)
        contents.append([path.read_bytes() for path in sorted((tmp_path / place).rglob("*")) if path.is_file()])
    assert contents[0] == contents[1]


def test_what_goes_wrong_is_found(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("faultcli.checkpoint.reader.locate", broken)
    _, _, code, text = fuzz.run_case(0, 0, "index", corpus, tmp_path / "case")
    assert (code, "ZeroDivisionError" in text) == (3, True)
