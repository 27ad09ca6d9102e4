"""What goes where: results to stdout, notes to stderr, JSON alone, no colours in a pipe; and how a command ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import faultcli as package
from faultcli.cli import app, inspect, main, run
from faultcli.workload.demo import demo_checkpoint_path

QUICK = ["--trials", "2", "--limit", "20"]
COMMANDS: dict[str, list[str]] = {
    "campaign": ["campaign", "--ber", "1e-4", *QUICK],
    "evaluate": ["evaluate", "--limit", "20"],
    "inspect": ["inspect"],
    "inspect --formats": ["inspect", "--formats"],
    "inspect --faults": ["inspect", "--faults"],
    "inspect --archs": ["inspect", "--archs"],
    "inject": ["inject", "model.safetensors", "--ber", "1e-4", "-o", "out", "--force"],
}


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_checkpoint_path(), "model.safetensors")


@pytest.mark.parametrize("command", COMMANDS)
def test_json_alone_on_stdout(command: str, faultcli: Callable[..., object]) -> None:
    dash = faultcli(*COMMANDS[command], "--json", "-")
    bare = faultcli(*COMMANDS[command], "--json")
    before_another_option = faultcli(*COMMANDS[command], "--json", "-q")
    documents = [json.loads(done.out) for done in (dash, bare, before_another_option)]
    for document in documents:
        assert document["schema"].startswith("faultcli.")
        assert document["schema"].endswith("/1")
        document.pop("timing", None)
    assert documents[0] == documents[1] == documents[2]
    assert before_another_option.err == ""
    assert {dash.code, bare.code, before_another_option.code} == {0}


@pytest.mark.parametrize("command", COMMANDS)
def test_json_into_a_file(command: str, faultcli: Callable[..., object], tmp_path: Path) -> None:
    for _ in range(2):  # an earlier result is replaced
        done = faultcli(*COMMANDS[command], "--json", "result.json")
        assert done.code == 0
        assert done.out.strip()
        assert json.loads(Path("result.json").read_text())["schema"].startswith("faultcli.")
    assert not list(tmp_path.glob(".faultcli-*"))


def test_json_file_stays_whole_when_the_command_fails(
    faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faultcli("inspect", "--json", "result.json").code == 0
    before = Path("result.json").read_bytes()
    assert faultcli("inspect", "gone.safetensors", "--json", "result.json").code == 2

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", fail)
    assert faultcli("inspect", "--json", "result.json").code == 130
    assert Path("result.json").read_bytes() == before
    assert not list(Path().glob(".faultcli-*"))


def test_json_is_readable_in_every_locale(faultcli: Callable[..., object]) -> None:
    os.rename("model.safetensors", "môdel.safetensors")
    done = faultcli("inspect", "môdel.safetensors", "--json")
    assert done.out.isascii()
    assert json.loads(done.out)["checkpoint"] == "môdel.safetensors"


def test_notes_go_to_stderr_and_quiet_drops_them(faultcli: Callable[..., object]) -> None:
    loud, quiet = faultcli(*COMMANDS["campaign"]), faultcli(*COMMANDS["campaign"], "--quiet")
    assert "seed 0, plan " in loud.err
    assert "the embedded demo" in loud.err
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out == loud.out
    assert "top-1 accuracy" in quiet.out


def test_version(faultcli: Callable[..., object]) -> None:
    done = faultcli("--version")
    assert (done.code, done.out, done.err) == (0, f"faultcli {package.__version__}\n", "")


def test_no_command_is_a_usage_error_with_help(faultcli: Callable[..., object]) -> None:
    done = faultcli()
    assert done.code == 2
    for command in ("campaign", "evaluate", "inject", "inspect"):
        assert command in done.out


COLOURS = {"GITHUB_ACTIONS": "true", "FORCE_COLOR": "1"}  # those that ask for some


@pytest.mark.parametrize("variable", COLOURS)
def test_no_colours_in_a_pipe(
    variable: str, fresh_shell: Callable[..., object], faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = fresh_shell("faultcli campaign --help && faultcli campain", **{variable: COLOURS[variable]})
    assert done.code == 2
    assert "Usage: faultcli campaign" in done.out
    assert "\x1b" not in done.out + done.err
    monkeypatch.setenv(variable, COLOURS[variable])
    done = faultcli("inspect")
    assert "conv1.weight" in done.out
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("line", ["faultcli inspect", "faultcli campaign --help"])
def test_closed_pipe(line: str, shell: Callable[..., object]) -> None:
    done = shell(f"{line} -q | true; exit ${{PIPESTATUS[0]}}")
    assert done.code in (0, 141)
    assert "Traceback" not in done.err
    assert "error" not in done.err


def test_locale_without_our_letters(fresh_shell: Callable[..., object]) -> None:
    done = fresh_shell("faultcli inspect", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.code, "Traceback" in done.err) == (0, False)
    assert "conv1.weight" in done.out


def test_interrupt(warm: Path, tmp_path: Path) -> None:
    command = [str(warm / "faultcli"), "campaign", "--ber", "1e-4"]
    process = subprocess.Popen(
        [*command, "--trials", "100000", "--json", "result.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stderr is not None
    first = process.stderr.readline()  # the note that comes before the first trial
    assert "embedded demo" in first
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "faultcli: interrupted"
    assert "nothing is kept: with --store FILE" in err
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_bug_is_an_internal_error(faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(inspect, "_inspect_checkpoint", fail)
    done = faultcli("inspect")
    assert done.code == 3
    assert "ZeroDivisionError: a bug" in done.err
    assert done.err.endswith("try: report it with the lines above\n")
    assert "this is a bug in faultcli, not in what you asked" in done.err


def test_codes_are_returned_not_raised() -> None:
    assert run(["--version"]) == 0
    assert app.registered_commands


def test_names_from_a_checkpoint_are_shown_not_obeyed(faultcli: Callable[..., object]) -> None:
    names = ["[red]x[/]", "a[/b]", "esc\x1b[31m\nnext"]
    save_file({name: torch.ones(2, 2) for name in names}, "odd[bold].safetensors", {"k[/z]": "v\x1b[31m\nq"})
    done = faultcli("inspect", "odd[bold].safetensors")
    assert done.code == 0
    assert "\x1b" not in done.out + done.err
    for shown in ("odd[bold].safetensors", "[red]x[/]", "a[/b]", r"esc\x1b[31m\nnext"):
        assert shown in done.out
    assert r"k[/z]=v\x1b[31m\nq" in done.err
    done = faultcli("campaign", "--fault", "bitflip:1e-4,include=[cf]*", *QUICK)
    assert "bitflip:0.0001,include=[cf]*" in done.out


def test_inspect_shows_a_checkpoint_without_weights(faultcli: Callable[..., object]) -> None:
    save_file({"bias": torch.zeros(4)}, "biases.safetensors")
    done = faultcli("inspect", "biases.safetensors")
    assert done.code == 0
    assert "bias" in done.out
    assert "0 of 1 tensor at risk" in done.out


def test_default_output_lies_beside_the_model(faultcli: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy("model.safetensors", "deep/model.safetensors")
    done = faultcli("inject", "deep/model.safetensors", "--ber", "1e-4", "--json")
    assert json.loads(done.out)["output"] == "deep/model.faulty.safetensors"
    assert sorted(os.listdir("deep")) == ["model.faulty.safetensors", "model.safetensors"]


def test_default_output_of_the_directory_one_is_in(
    faultcli: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy("model.safetensors", "deep/model.safetensors")
    monkeypatch.chdir("deep")
    assert faultcli("inject", ".", "--ber", "1e-4").code == 0
    assert faultcli("scale", ".", "--factor", "2").code == 0
    assert os.listdir("../deep.faulty") == os.listdir("../deep.scaled") == ["model.safetensors"]


def test_inspect_lists_what_no_format_stores_and_what_squares_cannot_hold(faultcli: Callable[..., object]) -> None:
    odd = {
        "flags": torch.ones(2, 2, dtype=torch.bool),
        "four": torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "huge": torch.tensor([[1e300, -1e300]], dtype=torch.float64),
        "none": torch.empty(0, 3),
    }
    save_file(odd, "odd.safetensors")
    done = faultcli("inspect", "odd.safetensors", "--json")
    assert done.code == 0
    rows = {row["name"]: row for row in json.loads(done.out)["tensors"]}
    assert (rows["four"]["word_bits"], rows["four"]["bits"]) == (4, 32)  # as they lie in the file
    assert (rows["huge"]["low"], rows["huge"]["high"], rows["huge"]["std"]) == (-1e300, 1e300, None)
    rows = {
        row["name"]: row
        for row in json.loads(faultcli("inspect", "odd.safetensors", "--format", "fp16", "--json").out)["tensors"]
    }
    assert (rows["four"]["word_bits"], rows["four"]["bits"]) == (None, 0)
    done = faultcli("inspect", "odd.safetensors", "--ber", "1e-4", "--format", "fp16")
    assert "tensor 'four' has dtype F4, which no number format stores" in done.err
    done = faultcli("inspect", "odd.safetensors", "--ber", "1e-4", "--exclude", "four")
    assert "tensor 'huge' holds NaN, infinite or huge values" in done.err
    assert faultcli("inspect", "odd.safetensors", "--ber", "1e-4", "--include", "none").code == 0


def test_replay_says_that_every_byte_is_back(faultcli: Callable[..., object]) -> None:
    faultcli("inject", "model.safetensors", "--ber", "1e-4", "-o", "bad", "--save-faults", "map")
    done = faultcli("inject", "bad", "--replay", "map", "-o", "back")
    assert "119 stored bits flipped back, every byte is restored" in done.out
    assert Path("back").read_bytes() == Path("model.safetensors").read_bytes()
    done = faultcli("inject", "model.safetensors", "--replay", "map", "-o", "again", "--json")
    assert json.loads(done.out)["replayed"] == "map"
    assert Path("again").read_bytes() == Path("bad").read_bytes()


STREAMS = {
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "both closed": ">&- 2>&-",
    "all closed": "<&- >&- 2>&-",
    "stderr full": "2>/dev/full >/dev/null",
    "stdout full": ">/dev/full",
    "both full": ">/dev/full 2>/dev/full",
}
LINES = {
    "campaign": "faultcli campaign --ber 1e-4 --trials 2 --limit 20",
    "gate that fails": "faultcli campaign --ber 1e-2 --format q2.5 --max-drop 0.1 --limit 20",
    "json": "faultcli inspect --json -",
    "inject": "faultcli inject model.safetensors --ber 1e-4 -o out --force",
    "scale": "faultcli scale model.safetensors --factor 2 -o out --force",
    "evaluate": "faultcli evaluate --limit 20",
    "corrector": "faultcli train-corrector --fault gaussian:0.1 --method align --maps 1 --report-maps 1 --window 50"
    " --train-limit 150 --limit 50",
    "stores": "faultcli campaign --ber 1e-4 --trials 2 --limit 20 -q --store s.db >/dev/null"
    " && faultcli merge s.db -o m.db && faultcli report m.db -o r.md",
    "help": "faultcli --help",
    "version": "faultcli --version",
    "mistake": "faultcli campaign --nonsense",
}


TELLING = {
    "campaign": ["both closed", "stderr full"],
    "json": ["stdout full"],
    "inject": ["both full"],
    "scale": ["stdout full", "all closed"],
    "evaluate": ["both full", "stdout closed"],
    "corrector": ["stdout full", "stderr full"],
    "stores": ["all closed"],
}


@pytest.mark.parametrize(
    ("line", "streams"),
    [
        *(("help", streams) for streams in STREAMS),
        *(("version", streams) for streams in ("stdout full", "all closed")),
        *(("mistake", streams) for streams in ("both closed", "stderr full", "both full")),
        *((line, streams) for line, listed in TELLING.items() for streams in listed),
        *(("gate that fails", streams) for streams in ("all closed", "stderr full", "stdout full")),
    ],
)
def test_streams_as_daemons_leave_them(line: str, streams: str, shell: Callable[..., object]) -> None:
    """A closed stream wants nothing; a result that could not be written is 2; 1 is a gate that failed, nothing else."""
    done = shell(f"{LINES[line]} {STREAMS[streams]}")
    lost = streams in ("stdout full", "both full") and line != "stores"  # whose results are files
    expected = 2 if lost or line == "mistake" else 1 if line == "gate that fails" else 0
    assert done.code == expected, done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("limit", "line", "said"),
    [
        ("ulimit -f 10", "faultcli campaign --ber 1e-4 --trials 2 --limit 20 --store s.db", "limit (ulimit -f) is"),
        ("ulimit -v 200000", "faultcli campaign --ber 1e-4 --trials 2 --limit 20", "memory ran out"),
        ("ulimit -n 5", "faultcli inject model.safetensors --ber 1e-4 -o out", "ulimit -n"),
        ("mkdir gone; cd gone; rmdir ../gone", "faultcli inspect", "the working directory does not exist"),
    ],
)
def test_limits_of_the_system_are_said(limit: str, line: str, said: str, fresh_shell: Callable[..., object]) -> None:
    done = fresh_shell(f"{limit}; {line}")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_memory_that_runs_out_is_no_failed_gate(
    faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the C++ below and Python itself raise; the latter even where there is none left to say so."""

    def run_out(error: Exception) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    for error in (MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("[enforce fail] can't allocate memory")):
        monkeypatch.setattr(inspect, "_inspect_checkpoint", run_out(error))
        done = faultcli("inspect")
        assert done.code == 2
        assert "memory ran out" in done.err
    monkeypatch.setattr(package.cli, "run", run_out(MemoryError()))
    monkeypatch.setattr("faultcli.cli.signal.signal", lambda *given: None)  # later tests inherit what is set here
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
