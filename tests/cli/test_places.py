"""No command writes over what it reads, or over what it writes: all commands, all pairs of options that name files."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from faultcli.cli import app, run
from faultcli.cli.places import Role, roles_of
from faultcli.workload.demo import demo_checkpoint_path

COMMANDS = {info.callback.__name__.replace("_", "-"): info.callback for info in app.registered_commands}
# Words that make a command run at all; what names files is put in by the test.
NEEDED = {
    "inject": ["--ber", "1e-4"],
    "scale": ["--factor", "2"],
    "harden": ["--format", "q2.5"],
    "train-corrector": ["--fault", "gaussian:0.1"],
}
TAKES_A_MODEL = ("inject", "scale", "harden", "repair", "seal", "verify")
# Options that take a text which never names a file; every other one has to say what it does to the file.
NO_FILES = [
    *(
        "ber",
        "bers",
        "format",
        "protect",
        "candidate",
        "recalibrate",
        "guard_activations",
        "target",
        "include",
        "exclude",
        "device",
        "mean",
        "std",
    ),
    *("base", "length", "tensor", "key"),
    *("critical", "by", "factor", "granularity", "method", "hidden", "ray", "shard", "rates", "gate", "bounds"),
    *("inputs_per_trial", "kernel"),
]
FILE_WORDS = ("FILE", "DIR", "STORE", "MODEL", "OUT", "measured")


def parameters(command: Callable[..., None]) -> dict[str, tuple[type, object]]:
    hints = get_type_hints(command, include_extras=True)
    return {name: get_args(hints[name]) for name in inspect.signature(command).parameters}  # type: ignore[misc]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_may_name_a_file_says_what_it_does_to_it(name: str) -> None:
    roles = roles_of(COMMANDS[name])
    for parameter, about in parameters(COMMANDS[name]).items():
        said = " ".join(f"{getattr(item, 'metavar', '')} {getattr(item, 'help', '')}" for item in about[1:])
        metavar = " ".join(str(getattr(item, "metavar", "")) for item in about[1:])
        texts = "str" in str(about[0]) and parameter not in NO_FILES
        if "Path" in str(about[0]) or texts or any(word in metavar for word in FILE_WORDS) or "FILE" in said:
            assert parameter in roles, f"{name}: {parameter} needs READS, WRITES or KEEPS"


ALIASES = ("same", "dotted", "link", "hard link")


def pairs() -> list[tuple[str, str, str, str]]:
    """All pairs, each under one of the names that a file may have, by turns: what a name leads to is found for all
    options alike."""
    found: list[tuple[str, str, str, str]] = []
    for name, command in COMMANDS.items():
        roles = roles_of(command)
        for one, other in itertools.combinations(roles, 2):
            if {roles[one][1], roles[other][1]} != {Role.READS}:
                found.append((name, one, other, ALIASES[len(found) % len(ALIASES)]))
    return found


def said(option: str, value: str) -> list[str]:
    return [value] if option.isupper() else [f"{option}={value}"]


@pytest.mark.parametrize(("name", "one", "other", "alias"), pairs())
def test_no_two_options_are_one_file(
    name: str,
    one: str,
    other: str,
    alias: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    roles = roles_of(COMMANDS[name])
    shutil.copy(demo_checkpoint_path(), "model.safetensors")
    config = "config" in (one, other)
    target = "x.json" if "json" in (one, other) else "x.html" if name == "report" else "x.toml" if config else "x"
    content = b"" if config else b'{"schema": "faultcli.x/1"}' if "json" in (one, other) else demo_bytes()
    Path(target).write_bytes(content)
    before = Path(target).read_bytes()
    second = {"same": target, "dotted": f"./{target}", "link": f"link-{target}", "hard link": f"hard-{target}"}[alias]
    if alias == "link":
        os.symlink(target, second)
    elif alias == "hard link":
        os.link(target, second)
    first, last = (roles[one][0], roles[other][0])
    words = [name, *NEEDED.get(name, []), *said(first, target), *said(last, second)]
    if "--force" in words or "force" in inspect.signature(COMMANDS[name]).parameters:
        words.append("--force")
    needed = [
        role[0]
        for key, role in roles.items()
        if role[0] in ("MODEL", "FILE", "SOURCE", "STORE", "STORES", "GOLDEN", "DUMP") and key not in (one, other)
    ]
    words += ["model.safetensors" for spelled in needed if name in TAKES_A_MODEL or spelled != "MODEL"]
    if name == "merge" and "output" not in (one, other):
        words += ["-o", "joined"]
    if name == "report" and "output" not in (one, other):
        words += ["-o", "page.html"]
    assert run(words) == 2, words
    error = capfd.readouterr().err
    assert "inputs are never changed" in error or "cannot be one file" in error, (words, error)
    assert Path(target).read_bytes() == before
    assert not list(tmp_path.glob(".faultcli-*"))


def demo_bytes() -> bytes:
    return demo_checkpoint_path().read_bytes()


def test_an_output_among_the_inputs_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("data")
    folder.mkdir()
    (folder / "image.png").write_bytes(b"x")
    words = ["train-corrector", "--fault", "gaussian:0.1", "--data", "images:data", "--report", "data/image.png"]
    assert run(words) == 2
    assert "lies in data, which --data names" in capfd.readouterr().err
    assert (folder / "image.png").read_bytes() == b"x"


def test_the_names_that_a_command_makes_up_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_checkpoint_path(), "model.safetensors")
    assert run(["inject", "model.safetensors", "--ber", "1e-4", "--save-faults", "model.faulty.safetensors"]) == 2
    assert "cannot be one file" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    "words",
    [["inspect", ""], ["inject", "m", "--ber", "1e-4", "-o", ""], ["campaign", "--store="], ["evaluate", "--data", ""],
     ["evaluate", "--json", ""], ["merge", "a", "", "-o", "c"], ["inspect", "a\0b"], ["report", "s", "-o", "a\0.html"]],
)  # fmt: skip
def test_empty_words_and_no_names(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    error = capfd.readouterr().err
    assert "is empty" in error or "no file name has" in error


def test_an_earlier_result_in_the_folder_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_checkpoint_path(), "model.safetensors")
    for _ in range(2):
        assert run(["evaluate", ".", "--limit", "10", "--json", "result.json", "--quiet"]) == 0
    for _ in range(2):
        words = ["campaign", ".", "--ber", "1e-4", "--limit", "10", "--trials", "2", "--store", "run.sqlite", "--quiet"]
        assert run(words) == 0


@pytest.mark.parametrize(
    ("words", "written", "named"),
    [
        (["scale", "sharded/weights.json", "--factor", "2", "-o", "out", "--json"], "sharded/one.st", "no earlier"),
        (["inject", "sharded/weights.json", "--ber", "1e-4", "--force", "--save-faults"], "sharded/one.st", "input"),
        (["train-corrector", "--fault", "gaussian:0.1", "--data", "mynet:data", "--force", "-o"], "mynet.py", "--data"),
        (["train-corrector", "hf/model.safetensors", "--fault", "zero:0.1", "--force", "-o"], "hf/config.json", "inp"),
        (["train-corrector", "--fault", "measured:a=b,place=shift", "--force", "-o"], "a=b", "--fault names"),
        (["merge", "store", "--force", "-o"], "store-journal", "input"),
        (["train-corrector", "--fault", "gaussian:0.1", "--report"], "notes.md", "exists already"),
    ],
)
def test_what_is_read_with_an_input_is_an_input(
    words: list[str],
    written: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("sharded", "hf"):
        Path(folder).mkdir()
    shutil.copy(demo_checkpoint_path(), "sharded/one.st")
    shutil.copy(demo_checkpoint_path(), "hf/model.safetensors")
    with Path("sharded/one.st").open("rb") as file:
        names = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shards = {name: "one.st" for name in names if name != "__metadata__"}
    Path("sharded/weights.json").write_text(json.dumps({"weight_map": shards}))
    for name in ("mynet.py", "hf/config.json", "a=b", "store", "store-journal", "notes.md"):
        Path(name).write_text("kept")
    before = Path(written).read_bytes()
    assert run([*words, written]) == 2
    assert named in capfd.readouterr().err
    assert Path(written).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["inspect", "--fault", f"bitflip:1e-4,include={'a' * 300}"], 0),
        (["inject", "model.safetensors", "--ber", "1e-4", "-o", "circle/out"], 2),
        (["inject", "model.safetensors", "--ber", "1e-4", "-o", "circle", "--json", "x"], 2),
        (["evaluate", "--data", "images:"], 2),
        (["evaluate", "--data", "images:.,classes="], 2),
    ],
)
def test_odd_names(
    words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_checkpoint_path(), "model.safetensors")
    Path("circle").symlink_to("circle")
    assert run(words) == code
    assert "Traceback" not in capfd.readouterr().err


def test_nothing_is_empty_in_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ('output = [""]', 'output = ["a.html", ""]', 'output = ""', 'store = "a\\u0000b"'):
        Path("c.toml").write_text(line)
        assert run(["report", "s.db", "--config", "c.toml"]) == 2
        assert "is empty or no text" in capfd.readouterr().err
