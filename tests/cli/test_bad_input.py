"""A mistake of the user: one line says what is wrong, one says what to do, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import faultcli as faultcli_package
from faultcli.workload.demo import demo_checkpoint_path


def crafted(path: Path, header: object, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype: str, start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": [2], "data_offsets": [start, end]}


def shards(directory: Path, weight_map: dict[str, str]) -> None:
    directory.mkdir()
    save_file({"a": torch.ones(2, 2)}, directory / "one.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model, and with everything that can be wrong with one."""
    here = tmp_path_factory.mktemp("bad")
    demo = demo_checkpoint_path()
    shutil.copy(demo, here / "model.safetensors")
    raw = demo.read_bytes()
    (here / "truncated.safetensors").write_bytes(raw[:-10])
    (here / "garbage.safetensors").write_bytes(bytes(range(255, 0, -1)))
    crafted(here / "overlap.safetensors", {"a": entry("F32", 0, 8), "b": entry("F32", 4, 12)}, bytes(12))
    crafted(here / "outside.safetensors", {"a": entry("F32", 0, 8), "b": entry("F32", 8, 16)}, bytes(12))
    crafted(here / "dtype.safetensors", {"a": entry("F33", 0, 8)}, bytes(8))
    shards(here / "missing-shard", {"a": "one.safetensors", "b": "two.safetensors"})
    shards(here / "escaping-shard", {"a": "one.safetensors", "b": "../model.safetensors"})

    state = load_file(demo)
    arch = {"faultcli.arch": "digits-cnn"}
    with_nan = dict(state)
    with_nan["fc2.weight"] = state["fc2.weight"].clone()
    with_nan["fc2.weight"][0, :3] = torch.tensor([torch.nan, torch.nan, -torch.inf])
    save_file(with_nan, here / "nan.safetensors", arch)
    save_file({"bias": torch.zeros(4)}, here / "biases.safetensors")
    save_file({"flags": torch.ones(2, 2, dtype=torch.bool)}, here / "flags.safetensors")
    save_file({**state, "fc2.weight": torch.zeros(10, 63)}, here / "shape.safetensors", arch)
    save_file({**state, "extra.weight": torch.zeros(1)}, here / "extra.safetensors", arch)
    save_file({key: state[key] for key in state if key != "fc1.bias"}, here / "lacking.safetensors", arch)

    np.savez(here / "large.npz", images=np.zeros((3, 28, 28), np.uint8), labels=np.zeros(3, np.int64))
    np.savez(here / "none.npz", images=np.zeros((0, 8, 8), np.uint8), labels=np.zeros(0, np.int64))
    (here / "is-a-file").touch()
    (here / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch" * 10)
    (here / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    for name in ("net.pt2", "net.pt", "net.keras"):
        (here / name).write_bytes(b"PK\x03\x04" + bytes(100))
    (here / "config.json").write_text('{"model_type": "digits"}')
    (here / "device").symlink_to("/dev/null")
    os.mkdir(here / "directory")
    return here


def snapshot(directory: Path) -> dict[str, bytes | None]:
    return {
        str(entry.relative_to(directory)): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(directory.rglob("*"))
    }


INJECT = "inject model.safetensors -o out"
CAMPAIGN = "campaign --trials 1 --limit 2"
# a command line: (what the error says, what the remedy says)
CASES: dict[str, tuple[str, str]] = {
    # the checkpoint
    "inject truncated.safetensors --ber 1e-4 -o out": (
        r"truncated\.safetensors: is truncated: tensor '\S+' ends at byte \d+, the file at \d+",
        "download or export it again",
    ),
    "campaign garbage.safetensors --ber 1e-4": (r"garbage\.safetensors: is not a safetensors file", "name a"),
    "inspect overlap.safetensors": (r"overlap\.safetensors: tensors 'a' and 'b' overlap", "again"),
    "inject outside.safetensors --ber 1e-4 -o out": (r"outside\.safetensors: is truncated: tensor 'b'", "again"),
    "inspect dtype.safetensors": (r"dtype\.safetensors: tensor 'a': unknown dtype 'F33'", "known: .*BF16"),
    "inject missing-shard --ber 1e-4 -o out": (
        r"missing-shard/model\.safetensors\.index\.json: missing shard two\.safetensors",
        "download the rest",
    ),
    "inject escaping-shard --ber 1e-4 -o out": (
        r"index\.json: tensor 'b' lies in '\.\./model\.safetensors', which is not the name of a file beside it",
        "index is damaged",
    ),
    "inspect gone.safetensors": (r"gone\.safetensors: no such file or directory", "check the path"),
    "inspect directory": ("directory: holds no safetensors checkpoint", "name a .safetensors file"),
    # what is stored
    "inject nan.safetensors --ber 1e-4 --format q2.5 -o out": (
        r"nan\.safetensors: tensor 'fc2\.weight' holds 2 NaN and 1 infinite values; q2\.5 cannot store them",
        "--exclude",
    ),
    "campaign nan.safetensors --ber 1e-4 --format int8 --limit 2": (
        r"nan\.safetensors: tensor 'fc2\.weight'",
        "--excl",
    ),
    "evaluate nan.safetensors --format fp4-e2m1 --limit 2": (r"nan\.safetensors: tensor 'fc2\.weight'", "--exclude"),
    "inject flags.safetensors --ber 1e-4 --target any --format q2.5 -o out": (
        r"flags\.safetensors: tensor 'flags' has dtype BOOL, which no number format stores",
        "leave it out with --exclude",
    ),
    # the selection
    "inject biases.safetensors --ber 1e-4 -o out": (
        "--target weights: no tensor is left",
        "--target all takes 1 [(]F32",
    ),
    f"{INJECT} --ber 1e-4 --include 'conv3*'": (r"--include conv3\*: matches no tensor", "inspect MODEL"),
    f"{INJECT} --ber 1e-4 --exclude 'x*'": (r"--exclude x\*: matches no tensor", "inspect MODEL"),
    f"{CAMPAIGN} --ber 1e-4 --exclude '*'": ("no tensor is left .* after --include/--exclude", "widen"),
    f"{INJECT} --ber 1e-4 --target weight": ("unknown target 'weight'", "did you mean 'weights'"),
    f"{INJECT} --fault 'bitflip:1e-4,include=zzz*'": (r"include=zzz\*: matches none of the selected", "inspect"),
    # the faults
    f"{INJECT} --ber 1.5": ("--ber 1.5: a bit-error rate lies between 0 and 1", "1e-4"),
    f"{INJECT} --ber -0.1": ("--ber -0.1: a bit-error rate lies between 0 and 1", "1e-4"),
    f"{INJECT} --ber nan": ("--ber nan: a bit-error rate lies between 0 and 1", "1e-4"),
    f"{INJECT} --ber 1e-4,1e-3": ("--ber 1e-4,1e-3: is not a number", "1e-4"),
    f"{CAMPAIGN} --ber 1e-4,2": ("--ber 2: a bit-error rate lies between 0 and 1", "1e-4"),
    f"{CAMPAIGN} --ber 1e-4,": ("--ber: a rate is empty", "commas and no spaces: --ber 1e-5,1e-4"),
    f"{INJECT} --fault stuck-at-0:-1": ("stuck-at-0:-1: .* must lie between 0 and 1", "try: stuck-at-0:1e-4$"),
    f"{INJECT} --fault flips:10000000": (
        "asks for 10000000 flips, only 1221120 bits are at risk",
        "try: flips:1221120 at the most",
    ),
    f"{INJECT} --fault flips:1.5": ("'1.5' is not a whole number", "flips:3$"),
    f"{INJECT} --fault bitflop:1e-4": ("unknown fault law 'bitflop'", "did you mean 'bitflip'"),
    f"{CAMPAIGN} --fault gausian:0.1": ("unknown fault law 'gausian'", "did you mean 'gaussian'"),
    f"{INJECT} --fault bitflip": ("bitflip needs a number", "probability that a bit flips"),
    f"{INJECT} --fault burst:1e-4,lenght=4": ("unknown option of burst 'lenght'", "did you mean 'length'"),
    f"{INJECT} --fault bitflip:1e-4,bits=exponnt": ("no bits 'exponnt'", r"exponent \(23-30\)"),
    INJECT: ("no fault to inject", "--ber 1e-4, or --fault"),
    f"{INJECT} --ber 1e-4 --fault flips:1": ("--ber and --fault are two ways to say the same", "name one"),
    CAMPAIGN: ("no fault to inject", "--ber P or --fault SPEC"),
    f"{CAMPAIGN} --ber 1e-4,0.0001": ("the arm native bitflip:0.0001 is asked for twice", "name every level once"),
    f"{INJECT} --ber 1e-4 --seed -1": ("--seed -1: a seed is a whole number from 0", "--seed 0"),
    f"{INJECT} --ber 1e-4 --trial -1": ("--trial -1: a trial is a whole number from 0", "--trial 0"),
    f"{CAMPAIGN} --ber 1e-4 --seed -1": ("--seed -1: a seed is a whole number from 0", "try: --seed 0"),
    # names
    f"{INJECT} --ber 1e-4 --format fp18": ("unknown number format 'fp18'", "did you mean 'fp16'"),
    f"{CAMPAIGN} --ber 1e-4 --format q2.5,Q25": ("unknown number format 'Q25'", r"known: .*q2\.5"),
    f"{CAMPAIGN} --ber 1e-4 --format int8-chanel": ("unknown number format", "did you mean 'int8-channel'"),
    f"{CAMPAIGN} --ber 1e-4 --format q40.2": (r"number format q40\.2: I \+ F is 42", "1 to 31"),
    f"{CAMPAIGN} --ber 1e-4 --format int4-g0": ("number format int4-g0: a group has 1 value or more", "int4-g128"),
    f"{CAMPAIGN} --ber 1e-4 --format mxfp5": ("unknown number format 'mxfp5'", "did you mean 'mxfp4'"),
    f"{CAMPAIGN} --ber 1e-4 --format nf4 --protect mset": ("the word 0 of nf4 is not the number 0", "secded"),
    f"{INJECT} --fault 'bitflip:1e-4,bits=scale' --format int8": ("int8: there are no bits 'scale'", "magnitude"),
    f"{CAMPAIGN} --ber 1e-4 --arch digit-cnn": ("unknown architecture 'digit-cnn'", "did you mean 'digits-cnn'"),
    f"{CAMPAIGN} --ber 1e-4 --arch no.such:net": ("importing 'no.such' failed", "installed packages are searched"),
    f"{CAMPAIGN} --ber 1e-4 --data digit": ("unknown data set 'digit'", "did you mean 'digits'"),
    f"{CAMPAIGN} --ber 1e-4 --data minst:./directory": ("unknown data set 'minst:", "known: .*mnist:DIR"),
    f"{CAMPAIGN} --ber 1e-4 --device cudda": ("unknown device 'cudda'", "auto, cpu, cuda"),
    # the workload
    "campaign shape.safetensors --ber 1e-4": (
        r"does not fit the architecture digits-cnn: .*fc2\.weight \[10, 63\] instead of \[10, 64\]",
        "--arch",
    ),
    "evaluate extra.safetensors": (r"does not fit .* 1 unexpected \(extra\.weight\)", "--arch"),
    "campaign lacking.safetensors --ber 1e-4": (r"does not fit .* 1 missing \(fc1\.bias\)", "--arch"),
    "evaluate biases.safetensors --target all": (
        "1 tensors are not those of any built-in",
        "pass --arch: hf, torchvision:NAME",
    ),
    f"{CAMPAIGN} --ber 1e-4 --arch lenet --data digits": (
        r"does not fit .* lenet: .* instead of \[20, 1, 5, 5\]",
        "--arch",
    ),
    f"{CAMPAIGN} --ber 1e-4 --data large.npz": (r"inputs of shape \[1, 28, 28\], but digits-cnn takes", "digits"),
    f"{CAMPAIGN} --ber 1e-4 --data none.npz": (r"none\.npz: there are no inputs", "at least one input .* --data"),
    "evaluate --data none.npz": (r"none\.npz: there are no inputs", "at least one input .* --data"),
    "evaluate --limit 0": ("a limit of 0 leaves no inputs", "--limit takes 1 or more"),
    "evaluate --data mnist:gone": ("there is no directory 'gone'", "mnist:DIR"),
    "campaign --ber 1e-4 --trials 0": ("--trials 0: a campaign has at least 1 trial", "try: --trials 30"),
    "evaluate --batch-size 0": ("a batch size of 0 makes no batches", "1 or more"),
    f"{CAMPAIGN} --ber 1e-4 --confidence 95": ("--confidence 95: lies between 0 and 1", "0.95"),
    "evaluate --mean a": ("--mean a: is not a number", "--mean 0.5"),
    # the outputs
    "inject model.safetensors --ber 1e-4 -o nan.safetensors": (r"nan\.safetensors: exists already", "--force"),
    "inject model.safetensors --ber 1e-4 -o model.safetensors --force": ("is the input; inputs are never", "-o"),
    "inject model.safetensors --ber 1e-4 -o ./model.safetensors --force": ("is the input; inputs are never", "-o"),
    "inject model.safetensors --ber 1e-4 -o directory --force": ("directory: is a directory", "name a file"),
    "inject model.safetensors --ber 1e-4 -o device --force": ("device: is not a regular file", "regular file"),
    "inject model.safetensors --ber 1e-4 -o gone/out": ("its directory gone does not exist", "mkdir -p 'gone'"),
    "inject model.safetensors --ber 1e-4 -o is-a-file/out": ("out: .*directory", ""),
    f"{INJECT} --ber 1e-4 --save-faults nan.safetensors": (r"nan\.safetensors: exists already", "--force"),
    f"{INJECT} --ber 1e-4 --save-faults out": ("out: --output and --save-faults cannot be one file", "another"),
    f"{INJECT} --ber 1e-4 --save-faults ./out": ("--output and --save-faults cannot be one file", "another"),
    f"{INJECT} --ber 1e-4 --save-faults model.safetensors --force": ("is the input; inputs are never changed", ""),
    f"{INJECT} --ber 1e-4 --save-faults gone/map": ("its directory gone does not exist", "mkdir"),
    f"{INJECT} --ber 1e-4 --json ./out": ("out: --output and --json cannot be one file", "another --json"),
    f"{INJECT} --ber 1e-4 --save-faults map --json map": ("--save-faults and --json cannot be one", "another --json"),
    "scale model.safetensors --factor 2 -o out --json out": ("--output and --json cannot be one file", "another"),
    f"{INJECT} --ber 1e-4 --json gone/x.json": ("its directory gone does not exist", "mkdir"),
    f"{CAMPAIGN} --ber 1e-4 --json gone/x.json": ("its directory gone does not exist", "mkdir"),
    f"{CAMPAIGN} --ber 1e-4 --json directory": ("directory: is a directory", "name a file"),
    # the model swallowed by --json must not be replaced
    "inspect --json model.safetensors": (r"--json model\.safetensors: exists, and is no earlier result", "--json -"),
    "inspect --json config.json": (r"--json config\.json: exists, and is no earlier result", "another FILE"),
    # replay
    f"{INJECT} --replay nan.safetensors": (r"nan\.safetensors: is not a fault map", "--save-faults"),
    f"{INJECT} --replay gone": ("gone: no such file", "check the path; `inject --save-faults FILE` writes"),
    f"{INJECT} --replay gone --ber 1e-4": ("--replay takes no --ber, --fault or --save-faults", "leave"),
    # what a first try looks like
    f"{CAMPAIGN} --ber 1e-4 --min-accuracy 90%": ("--min-accuracy 90%: is no number", "try: --min-accuracy 0.9$"),
    "plan --ber 1e-3 --format fp23": ("^faultcli: error: unknown number format 'fp23'", r"did you mean 'fp32'\?"),
    "where --worst": ("'--worst' requires an argument", "try: faultcli where --worst K$"),
    f"{CAMPAIGN} --ber 1e-4 --seed=1e3": ("--seed 1e3: is no whole number", "try: --seed 1000$"),
    f"{CAMPAIGN} --ber 1e-4 --confidence high": ("--confidence high: is no number", "try: --confidence 0.95$"),
    f"{CAMPAIGN} --ber 1e-4 --batch-size nan": ("--batch-size nan: is no whole number", "try: --batch-size N$"),
    "campaign --ber 1e-4 1e-3": ("--ber 1e-4 1e-3: only the first belongs to --ber", "try: --ber 1e-4,1e-3$"),
    "campaign model.safetensors --ber 1e-4 1e-3": ("only the first belongs to --ber", "try: --ber 1e-4,1e-3$"),
    "campaign --ber 1e-5, 1e-4, 1e-3": ("only the first belongs to --ber", "try: --ber 1e-5,1e-4,1e-3$"),
    "train-corrector --ber 1e-4 1e-3": ("only the first belongs to --ber", "try: --ber 1e-4,1e-3$"),
    f"{INJECT} --ber 1e-4 1e-3": ("only the first belongs to --ber", "try: one at a time: --ber 1e-4$"),
    "inspect 1e-3": ("1e-3: no such file", "a number without an option is taken for MODEL"),
    "campaign model.safetensors --ber 1e-3 --format q2.5 int8": (
        "--format q2.5 int8: only the first belongs to --format",
        "try: --format q2.5,int8$",
    ),
    "campaign model.safetensors --ber 1e-3 --protect none scale=max": (
        "--protect none scale=max: only the first belongs to --protect",
        "try: --protect none --protect scale=max$",
    ),
    "campaign --ber bitflip:1e-4": ("--ber bitflip:1e-4: is not a number and no memory", "--fault bitflip:1e-4$"),
    "campaign --fault ber:1e-4": ("unknown fault law 'ber'", "bitflip:1e-4; or --ber 1e-4$"),
    "campaign --fault bitflip:1%": ("'1%' is not a number", "a fraction, and no percentage: bitflip:0.01$"),
    "campaign --fault bitflip:90": ("must lie between 0 and 1", "if you mean 90 %: bitflip:0.9$"),
    "campaign --fault bitflip:1e-4,1e-3": ("'1e-3' is not of the form key=value", "a --fault for every level"),
    "campaign --ber 1e-3 --workers 0": ("--workers 0: a campaign has at least 1 worker", "--workers 2$"),
    "campaign --ber 1e-3 --max-drop 5": ("--max-drop 5.0: a threshold is a fraction", "--max-drop 0.01$"),
    "campaign --ber 1e-3 --min-accuracy 95": ("--min-accuracy 95.0: a threshold is", "--min-accuracy 0.9$"),
    "campaign --ber 0.01%": ("--ber 0.01%: is a probability, and no percentage", "--ber 0.0001$"),
    "campaign --ber 1%": ("--ber 1%: is a probability", "--ber 0.01$"),
    "campaign --ber 90": ("--ber 90: a bit-error rate lies between 0 and 1", "if you mean 90 %: --ber 0.9$"),
    "campaign --ber 1e-3 --protect none,scale=max": (
        "none is an arm of its own",
        "in a campaign --protect none --protect scale=max; where one is all there is: --protect scale=max$",
    ),
    "campaign --ber 1e-3 --arch mynets.py:mlp": ("'mynets.py:mlp': names a file", "try: mynets:mlp"),
    "campaign --ber 1e-3 --arch nets/mine.py:mlp": ("names a file", "in the folder nets/: mine:mlp"),
    "campaign net.onnx --ber 1e-3": (r"net\.onnx: is an ONNX file", "save them as safetensors"),
    "campaign net.tflite --ber 1e-3": (r"net\.tflite: is a TensorFlow Lite file", "save them as safetensors"),
    "inspect net.keras": (r"net\.keras: is a Keras file", "save them as safetensors"),
    "campaign net.pt2 --ber 1e-3": (
        r"net\.pt2: is an exported program",
        r"python -c .*torch\.export\.load.*net\.pt2; then: model\.safetensors --arch net\.pt2$",
    ),
    "inspect net.pt": (r"net\.pt: is a pickle checkpoint", r"try: convert it: faultcli convert net\.pt$"),
    "scale --factor 4": ("Missing argument 'MODEL'", "faultcli scale model.*faultcli demo -o DIR"),
    # the command line itself
    "inject --ber 1e-4": ("Missing argument 'MODEL'", "faultcli inject model.*faultcli demo -o DIR"),
    "campain --ber 1e-4": ("No such command 'campain'. Did you mean 'campaign'", "try: faultcli campaign"),
    "campaign --bber 1e-4": ("No such option: --bber", "try: .*--ber"),
    "campaign --ber": ("--ber.*requires an argument", "try: faultcli campaign --ber"),
    "campaign --ber 1e-4 --trials many": ("--trials many: is no whole number", "try: --trials N$"),
    "evaluate a.safetensors b.safetensors": ("unexpected extra argument", "try: faultcli evaluate"),
}


@pytest.mark.parametrize("line", CASES)
def test_bad_input(
    line: str, bad_files: Path, faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad_files)
    before = snapshot(bad_files)
    done = faultcli(*shlex.split(line))
    assert_explained(done, *CASES[line])
    assert snapshot(bad_files) == before


def assert_explained(done: object, problem: str, remedy: str) -> None:
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    notes, (error, advice) = lines[:-2], lines[-2:]
    assert all(note.startswith("no MODEL named") or " inputs of " in note for note in notes)
    assert error.startswith("faultcli: error: ")
    assert re.search(problem, error), error
    assert advice.startswith("try: ")
    assert not advice.startswith("try: try")
    assert re.search(remedy, advice), advice


def test_replay_on_another_checkpoint(
    tmp_path: Path, faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = load_file(demo_checkpoint_path())
    shutil.copy(demo_checkpoint_path(), "a.safetensors")
    save_file({**state, "fc2.weight": state["fc2.weight"] * 2}, "b.safetensors")
    for form in ("native", "q2.5"):
        done = faultcli("inject", "a.safetensors", "--ber", 1e-4, "--format", form, "-o", "x", "--save-faults", form)
        assert done.code == 0
        before = snapshot(tmp_path)
        done = faultcli("inject", "b.safetensors", "--replay", form, "-o", "y")
        assert_explained(done, r"b\.safetensors: is not the checkpoint that the fault map belongs to", "drawn for")
        done = faultcli("inject", "a.safetensors", "--replay", form, "-o", form, "--force")
        assert_explained(done, "is what --replay names; inputs are never changed", "another -o")
        if form != "native":
            done = faultcli("inject", "x", "--replay", form, "-o", "y")
            assert_explained(done, r"faults drawn in q2\.5 cannot be taken back", "original checkpoint")
        assert snapshot(tmp_path) == before
        Path("x").unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_place_without_permission(tmp_path: Path, faultcli: Callable[..., object]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = faultcli("inject", demo_checkpoint_path(), "--ber", 1e-4, "-o", tmp_path / "locked" / "out")
    assert_explained(done, "permission denied", "directory of your own")


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Let no file grow beyond this, as `ulimit -f` does: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# what is written (the checkpoint has 150 kB): (bytes that a file may have, what the error says)
TOO_SMALL: dict[str, tuple[int, str]] = {
    "inject model.safetensors --ber 1e-4 -o new": (100_000, "new: cannot be written: the file is larger than"),
    "inject model.safetensors --ber 1e-4 -o out --force": (100_000, "out: cannot be written"),
    "inject model.safetensors --ber 1e-4 --format q2.5 -o new": (100_000, "new: cannot be written"),
    "inject model.safetensors --ber 0.3 -o new --save-faults map": (200_000, "map: cannot be written"),
    "inject sharded --ber 1e-4 -o new": (100_000, "new: cannot be written"),
    "inject sharded --ber 0.3 -o new --save-faults map": (200_000, "map: cannot be written"),
    "inspect --json result.json": (1000, r"result\.json: cannot be written"),
}


@pytest.mark.parametrize("line", TOO_SMALL)
def test_full_disk(line: str, tmp_path: Path, faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_checkpoint_path(), "model.safetensors")
    shutil.copy(demo_checkpoint_path(), "out")
    os.mkdir("sharded")
    shutil.copy(demo_checkpoint_path(), "sharded/one.safetensors")
    before = snapshot(tmp_path)
    nbytes, words = TOO_SMALL[line]
    with file_size_limit(nbytes):
        done = faultcli(*line.split())
    assert_explained(done, words, "")
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs /proc")
def test_place_where_nothing_can_be_made(faultcli: Callable[..., object]) -> None:
    done = faultcli("inject", demo_checkpoint_path(), "--ber", 1e-4, "-o", "/proc/out")
    assert_explained(done, "/proc/out: cannot be written", "")


def test_full_disk_in_a_process_of_its_own(fresh_shell: Callable[..., object], tmp_path: Path) -> None:
    shutil.copy(demo_checkpoint_path(), tmp_path / "model.safetensors")
    done = fresh_shell("ulimit -f 100; faultcli inject model.safetensors --ber 1e-4 -o new")
    assert_explained(done, r"new: cannot be written: .*limit \(ulimit -f\) allows", "write to another place")
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("line", ["faultcli inspect", "faultcli --version"])
def test_full_disk_behind_standard_output(shell: Callable[..., object], line: str) -> None:
    done = shell(f"{line} > /dev/full")
    assert_explained(done, "standard output: cannot be written: No space left on device", "free some space")


def test_no_remedy_only_names_the_help() -> None:
    """`--help` is a text of a hundred lines; a remedy says what to type."""
    package = Path(faultcli_package.__file__).parent
    for path in package.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            fine = any(part in line for part in ("help_option_names", "#", '"""'))
            assert fine or "--help" not in line.replace("--help-all", ""), f"{path}: {line}"
