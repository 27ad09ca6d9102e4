"""The recipes in examples/ci run, end with the contract's exit codes, and leave JUnit and a summary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest
import yaml

CI = Path(__file__).parents[1] / "examples" / "ci"
SMALL = ["--format", "q2.5", "--limit", "40", "--quiet"]


def gate(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(CI / "gate.sh"), *arguments],
        cwd=place,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said", "failures", "errors"),
    [
        (["--ber", "1e-7", "--max-drop", "0.2", *SMALL], 0, "gate: held", 0, 0),
        (["--ber", "1e-2", "--max-drop", "0.2", *SMALL], 1, "gate: failed", 1, 0),
        (["--ber", "1e-7", "--max-drop", "0.01", "--trials", "3", *SMALL], 4, "gate: not decided", 0, 1),
    ],
)
def test_gate_sh(arguments: list[str], code: int, said: str, failures: int, errors: int, tmp_path: Path) -> None:
    summary = tmp_path / "step-summary.md"
    done = gate(tmp_path, *arguments, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == code, done.stderr
    assert said in done.stdout
    reports = tmp_path / "faultcli-reports"
    suites = Tree.parse(reports / "junit.xml").getroot()
    assert (suites.get("failures"), suites.get("errors")) == (str(failures), str(errors))
    assert summary.read_text() == (reports / "summary.md").read_text()
    assert (reports / "report.html").stat().st_size > 10_000


def test_gate_sh_with_bad_input(tmp_path: Path) -> None:
    done = gate(tmp_path, "none.safetensors", "--ber", "1e-4")
    assert done.returncode == 2
    assert "gate: no result (exit code 2)" in done.stdout
    assert not (tmp_path / "faultcli-reports" / "junit.xml").exists()


def test_gate_sh_against_a_baseline(tmp_path: Path) -> None:
    """The JSON of one run is the baseline of the next."""
    first = gate(tmp_path, "--ber", "1e-4", "--trials", "40", *SMALL, REPORTS="old")
    assert first.returncode == 0, first.stderr
    done = gate(tmp_path, "--ber", "1e-4", "--baseline", "old/result.json", "--max-drop", "0.2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "below the baseline" in (tmp_path / "faultcli-reports" / "summary.md").read_text()


def test_the_workflow() -> None:
    workflow = yaml.safe_load((CI / "github-actions.yml").read_text())
    assert workflow[True] == ["pull_request"]  # YAML 1.1 reads `on` as a truth value
    steps = workflow["jobs"]["bit-flips"]["steps"]
    assert [step["name"] for step in steps if "name" in step] == ["Install", "Gate", "Keep the reports"]
    assert "examples/ci/gate.sh" in steps[3]["run"]
    assert steps[4]["if"] == "always()"


def test_the_gitlab_job() -> None:
    job = yaml.safe_load((CI / "gitlab-ci.yml").read_text())["bit-flips"]
    assert job["script"][1].startswith("examples/ci/gate.sh")
    assert job["allow_failure"]["exit_codes"] == 4
    assert job["artifacts"]["reports"]["junit"] == "faultcli-reports/junit.xml"


def test_the_pytest_recipe(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(CI / "test_gate.py"),
        "-q",
        "--junitxml",
        str(tmp_path / "junit.xml"),
    ]
    command += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "SUMMARY": str(tmp_path / "summary.md")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert Tree.parse(tmp_path / "junit.xml").getroot().find("testsuite").get("tests") == "2"  # type: ignore[union-attr]
    assert (tmp_path / "summary.md").read_text().startswith("# ✅ Pass")
