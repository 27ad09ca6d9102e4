"""The recipes in examples/ci run, end with the contract's exit codes, and leave JUnit and a summary."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as Tree

import numpy as np
import pytest
import yaml

from faultcli.workload.demo import demo_files

CI = Path(__file__).parents[1] / "examples" / "ci"
SMALL = ["--format", "q2.5", "--limit", "40", "--quiet"]
Gate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gate(tmp_path: Path, warm: Path) -> Gate:
    """Run gate.sh in a folder of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(CI / "gate.sh"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{warm}{os.pathsep}{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "said", "failures", "errors"),
    [
        (["--ber", "1e-2", "--max-drop", "0.2", *SMALL], 1, "gate: failed", 1, 0),
        (["--ber", "1e-7", "--max-drop", "0.01", "--trials", "3", *SMALL], 4, "gate: not decided", 0, 1),
    ],
)
def test_gate_sh(
    arguments: list[str], code: int, said: str, failures: int, errors: int, gate: Gate, tmp_path: Path
) -> None:
    summary = tmp_path / "step-summary.md"
    done = gate(*arguments, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == code, done.stderr
    assert said in done.stdout
    reports = tmp_path / "faultcli-reports"
    suites = Tree.parse(reports / "junit.xml").getroot()
    assert (suites.get("failures"), suites.get("errors")) == (str(failures), str(errors))
    assert summary.read_text() == (reports / "summary.md").read_text()
    assert (reports / "report.html").stat().st_size > 10_000


def test_gate_sh_with_bad_input(gate: Gate, tmp_path: Path) -> None:
    done = gate("none.safetensors", "--ber", "1e-4")
    assert done.returncode == 2
    assert "gate: no result (exit code 2)" in done.stdout
    assert not (tmp_path / "faultcli-reports" / "junit.xml").exists()


def test_gate_sh_against_a_baseline(gate: Gate, tmp_path: Path) -> None:
    """The JSON of one run is the baseline of the next."""
    first = gate("--ber", "1e-4", "--trials", "40", *SMALL, REPORTS="old")
    assert first.returncode == 0, first.stderr
    done = gate("--ber", "1e-4", "--baseline", "old/result.json", "--max-drop", "0.2", "--trials", "40", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "below the baseline" in (tmp_path / "faultcli-reports" / "summary.md").read_text()


def test_gate_sh_keeps_trials_by_commit(tmp_path: Path) -> None:
    """A program in place of faultcli adds a line to the store, and ends with 3, so that nothing is reported."""
    programs = tmp_path / "programs"
    program(programs / "faultcli", 'while [ "$1" != --store ]; do shift; done; echo run >>"$2"; exit 3')
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    for commit in ("a1", "b2", "a1", "", ""):
        environment = {**os.environ, "PATH": path, "GITHUB_SHA": "", "CI_COMMIT_SHA": commit}
        done = subprocess.run(["bash", str(CI / "gate.sh")], cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 3
    kept = {store.name: len(store.read_text().split()) for store in (tmp_path / "faultcli-reports").iterdir()}
    assert kept == {"trials-a1.sqlite": 2, "trials-b2.sqlite": 1, "trials.sqlite": 1}


def program(path: Path, script: str) -> None:
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def workflow() -> tuple[dict[str, str], list[str]]:
    """The variables and the scripts of the GitHub recipe."""
    read = yaml.safe_load((CI / "github-actions.yml").read_text())
    assert read[True] == ["pull_request"]  # YAML 1.1 reads `on` as a truth value
    steps = read["jobs"]["bit-flips"]["steps"]
    assert [step["name"] for step in steps if "name" in step] == ["Install", "Gate", "Keep the reports"]
    assert steps[4]["if"] == "always()"
    return read["env"], [step["run"] for step in steps if "run" in step]


def gitlab_job() -> tuple[dict[str, str], list[str]]:
    """The variables and the script of the GitLab recipe."""
    job = yaml.safe_load((CI / "gitlab-ci.yml").read_text())["bit-flips"]
    assert job["artifacts"]["reports"]["junit"] == "faultcli-reports/junit.xml"
    return job["variables"], ["\n".join(job["script"])]


@pytest.mark.parametrize(("recipe", "arch"), [(workflow, ""), (gitlab_job, "digits-cnn")])
def test_recipes_run_in_another_repository(
    recipe: Callable[[], tuple[dict[str, str], list[str]]], arch: str, warm: Path, tmp_path: Path
) -> None:
    """As they are copied, but for `pip`, which says here what it is asked to install; with 60 images, one worker."""
    source, mine, programs = tmp_path / "source", tmp_path / "mine", tmp_path / "programs"
    (source / "examples").mkdir(parents=True)
    shutil.copytree(CI, source / "examples" / "ci")
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(CI.parents[1] / name, source)
    git = ["git", "-C", str(source), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    program(programs / "pip", 'printf "%s\\n" "$@" >../asked')
    mine.mkdir()
    for name, content in demo_files().items():
        (mine / name).write_bytes(content)
    with np.load(mine / "data.npz") as data:
        np.savez(mine / "data.npz", **{name: values[:60] for name, values in data.items()})
    path = f"{programs}{os.pathsep}{warm}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RUNNER_TEMP": str(tmp_path / "runner")}
    variables, scripts = recipe()
    assert variables["ARCH"] == ""
    environment |= {**variables, "FAULTCLI_SOURCE": str(source), "ARCH": arch}
    for script in scripts:
        done = subprocess.run(
            ["bash", "-e", "-c", script.replace("--workers 4", "--workers 1")],
            cwd=mine,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    clone = str(tmp_path / "runner" / "faultcli")
    constraints, source = (".faultcli", "./.faultcli") if recipe is gitlab_job else (clone, clone)
    assert (tmp_path / "asked").read_text().split() == ["install", "-c", f"{constraints}/constraints.txt", source]
    assert "gate: held" in done.stdout
    reports = mine / "faultcli-reports"
    suites = Tree.parse(reports / "junit.xml").getroot()
    assert (suites.get("failures"), suites.get("errors")) == ("0", "0")
    assert (reports / "report.html").stat().st_size > 10_000


def pytest_recipe(place: Path, recipe: Path, **environment: str) -> tuple[int, str, Tree.Element]:
    """Run the pytest recipe; return how it ends, what it prints and its JUnit suite."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(recipe),
        "-q",
        "--junitxml",
        str(place / "junit.xml"),
    ]
    command += ["-p", "no:cacheprovider", "--rootdir", str(place)]
    done = subprocess.run(
        command, cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    suite = Tree.parse(place / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    return done.returncode, done.stdout, suite


def test_the_pytest_recipe(tmp_path: Path) -> None:
    code, said, suite = pytest_recipe(tmp_path, CI / "test_gate.py", SUMMARY="summary.md", ARCH="digits-cnn", MODEL="")
    assert code == 0, said
    assert suite.get("tests") == "2"
    assert (tmp_path / "summary.md").read_text().startswith("# ✅ Pass")


def test_an_open_gate_is_an_error_for_pytest_as_it_is_in_a_report(tmp_path: Path) -> None:
    recipe = tmp_path / "test_gate.py"
    recipe.write_text((CI / "test_gate.py").read_text().replace("TRIALS = 300", "TRIALS = 3"))
    code, said, suite = pytest_recipe(tmp_path, recipe)
    assert code == 1
    assert "3 trials do not decide" in said
    assert [suite.get(kind) for kind in ("errors", "failures", "skipped")] == ["2", "0", "0"]
