"""What others wrote is read with a bound: devices, pipes, depth, digits."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from faultcli.foreign import ForeignError, is_number, parse_json, parse_toml, read_small, read_text, whole_number
from faultcli.workload.demo import demo_checkpoint_path

DEEP = {"list": "[" * 100_000, "object": '{"a":' * 100_000, "closed": "[" * 5000 + "]" * 5000}


def test_a_file_comes_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    assert read_small(tmp_path / "a", 1000) == b"x" * 1000
    with pytest.raises(ForeignError, match="is more than 999 bytes long"):
        read_small(tmp_path / "a", 999)
    assert read_small(Path("/dev/null")) == b""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/dev/zero", "is more than 1000 bytes long"),
        ("none", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("a\0b", "cannot be read: .*null"),
    ],
)
def test_what_is_no_small_file(path: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ForeignError, match=words):
        read_small(Path(path), 1000)


def test_a_pipe_is_waited_for_as_long_as_somebody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faultcli.foreign._PATIENCE_MS", 50)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ForeignError, match="is a pipe that nobody writes"):
        read_small(tmp_path / "pipe")
    slow = subprocess.Popen(["sh", "-c", f"exec > {tmp_path}/pipe; sleep 0.4; printf 'a = '; sleep 0.3; printf 1"])
    while slow.poll() is None:
        try:
            content = read_text(tmp_path / "pipe")
            break
        except ForeignError:
            continue  # the shell has not opened its end yet
    assert content == "a = 1"
    slow.wait()


def test_a_pipe_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"exec cat /dev/zero > {tmp_path}/pipe"])
    with pytest.raises(ForeignError, match="is more than 100000 bytes long"):
        read_small(tmp_path / "pipe", 100_000)
    assert writer.wait(10) != 0  # its pipe is closed


@pytest.mark.parametrize("text", [*DEEP.values(), "9" * 5000, "{", "nul"], ids=[*DEEP, "digits", "open", "word"])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ForeignError, match="is no valid JSON"):
        parse_json(text)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000, "a = {a=" * 3000, "a", "a = 1979-99-99"])
def test_toml_that_is_none(text: str) -> None:
    with pytest.raises(ForeignError, match="is no TOML"):
        parse_toml(text)


def test_whole_numbers_fit_64_bits() -> None:
    assert whole_number("-9223372036854775808") == -(1 << 63)
    assert [whole_number(text) for text in ("9223372036854775808", "9" * 5000, "1.0", "", "x")] == [None] * 5
    assert is_number(1, 0, 1)
    assert not any(is_number(value, 0, 1) for value in (True, float("nan"), 10**400, "1", None))


def test_process_substitution_and_standard_input(
    fresh_shell: Callable[..., object], shell: Callable[..., object], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(demo_checkpoint_path().read_bytes())
    plan = "campaign model.safetensors --plan-only --quiet"
    for run, line in (
        (fresh_shell, f"""faultcli {plan} --config <(sleep 0.2; echo 'ber = "1e-4"')"""),
        (shell, f"""echo 'ber = "1e-4"' | faultcli {plan} --config /dev/stdin"""),
    ):
        done = run(line)
        assert (done.code, "bitflip:0.0001" in done.out) == (0, True), done.err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--ber 1e-4 --max-drop 0.1 --baseline {}", "{}: is "),
        ("--config {}", "--config {}: is "),
        ("--ber 1e-4 --data images:folder,classes={}", "{}: is "),
    ],
)
@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_no_option_hangs_or_fills_the_memory(
    option: str, words: str, place: str, shell: Callable[..., object], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(demo_checkpoint_path().read_bytes())
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "folder" / "a" / "1.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    done = shell(f"timeout 60 faultcli campaign model.safetensors -q --limit 4 {option.format(place)}")
    assert done.code == 2
    assert words.format(place) in done.err
    assert ("more than 67108864 bytes" if place == "/dev/zero" else "nobody writes") in done.err


@pytest.mark.parametrize(
    "line",
    [
        "campaign --ber 1e-4 --shard 1/{digits}",
        "inject model.safetensors --fault flips:{digits}",
        "inject model.safetensors --fault burst:1e-4,length={digits}",
        "campaign --ber 1e-4 --protect tmr=msb:{digits}",
        "campaign --ber 1e-4 --recalibrate bn:{digits}",
        "evaluate --data digits,offset={digits}",
        "evaluate --data digits,offset=99999999999999999999",
        "train-corrector --ber 1e-4 --hidden {digits}",
        "train-corrector --ber 1e-4 --method edmn --hidden 999999999",
    ],
)
def test_numbers_of_thousands_of_digits(line: str, faultcli: Callable[..., object]) -> None:
    done = faultcli(*line.format(digits="9" * 5000).split())
    assert (done.code, "Traceback" in done.err) == (2, False)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("seed = 0x" + "f" * 5000, "seed is a number beyond 64 bits"),
        ("seed = " + "9" * 5000, "is no TOML"),
        ("seed = " + "[" * 5000, "is no TOML: it nests too deeply"),
        ("include = [0x" + "f" * 5000 + "]", "include is a list"),
    ],
    ids=["hexadecimal", "decimal", "deep", "listed"],
)
def test_a_config_that_no_option_can_take(
    entry: str, words: str, faultcli: Callable[..., object], tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(entry)
    done = faultcli("campaign", "--config", tmp_path / "c.toml")
    assert (done.code, words in done.err) == (2, True), done.err[-300:]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("campaign --ber 1e-4 --limit 4 --trials 1 --threads 99999999999999999999", "1 to 1024 threads compute"),
        ("campaign --ber 1e-4 --limit 4 --trials 1 --workers 99999999999999999999", "at most 4096"),
        ("evaluate --limit 4 --batch-size 99999999999999999999", "makes no batches"),
        ("curve 1e-320:1e-2 --limit 4", "the ends of a range rise, between 1e-30 and 1"),
        ("train-corrector --ber 1e-4 --seed -1", "a seed is a whole number from 0"),
        ("train-corrector --ber 1e-4 --seed 99999999999999999999", "of 64 bits at most"),
        ("evaluate --data {name}.npz", "the name of a file is longer than the system allows"),
        ("evaluate --data mnist:{name}", "the name of a file is longer than the system allows"),
        ("inspect {name}", "File name too long"),
        ("evaluate --arch {name}.pt2", "longer than the system allows"),
    ],
)
def test_numbers_and_names_have_ends(line: str, words: str, faultcli: Callable[..., object]) -> None:
    done = faultcli(*line.format(name="x" * 300).split())
    assert (done.code, words in done.err) == (2, True), done.err[-300:]
