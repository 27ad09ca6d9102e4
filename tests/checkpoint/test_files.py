"""Atomic outputs: whole or not at all, never over an input, one clear line when they fail."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from faultcli import files
from faultcli.errors import OutputError
from faultcli.files import atomic_directory, atomic_output, copy_range


def test_writes_a_new_file_with_usual_permissions(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    with atomic_output(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".json"
        temporary.write_text("{}")
        assert not target.exists()
    (tmp_path / "usual").touch()
    assert target.read_text() == "{}"
    assert target.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_existing_target_needs_force_and_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    target.chmod(0o640)
    with pytest.raises(OutputError, match="out: exists already") as caught, atomic_output(target):
        raise AssertionError("not reached")
    assert caught.value.remedy == "--force, or another -o"
    with atomic_output(target, force=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("links", [True, False])
def test_target_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    target = tmp_path / "out"
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    output = atomic_output(target)
    output.__enter__().write_text("mine")
    target.write_text("theirs")
    with pytest.raises(OutputError, match="exists already"):
        output.__exit__(None, None, None)
    assert target.read_text() == "theirs"
    target.unlink()
    with atomic_output(target) as temporary:
        temporary.write_text("mine")
    assert target.read_text() == "mine"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, SystemExit])
@pytest.mark.parametrize("directory", [True, False])
def test_failure_leaves_the_old_target(tmp_path: Path, kind: type[BaseException], directory: bool) -> None:
    target = tmp_path / "out"
    if directory:
        target.mkdir()
        (target / "old.safetensors").write_text("old")
    else:
        target.write_text("old")
    write = atomic_directory if directory else atomic_output

    def fail() -> None:
        with write(target, force=True) as temporary:
            (temporary / "new.safetensors" if directory else temporary).write_text("half")
            raise kind

    with pytest.raises(kind):
        fail()
    assert (target / "old.safetensors" if directory else target).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_interrupted_swap_of_directories_restores_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.safetensors").write_text("old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == target and "-old-" not in self.name:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)  # a system that cannot do it in one step
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt), atomic_directory(target, force=True) as temporary:
        (temporary / "new.safetensors").write_text("new")
    assert [entry.name for entry in target.iterdir()] == ["old.safetensors"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "no space is left"), (errno.EDQUOT, "quota"), (errno.EFBIG, "larger"), (errno.EIO, "error")],
)
@pytest.mark.parametrize("write", [atomic_output, atomic_directory])
def test_full_disk(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Path]], code: int, words: str
) -> None:
    with pytest.raises(OutputError, match=f"out: cannot be written: .*{words}"), write(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_always_full(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="no space is left"),
        atomic_output(tmp_path / "out"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_errors_that_are_not_the_outputs_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_output(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(BrokenPipeError), atomic_output(tmp_path / "out"):
        raise BrokenPipeError(errno.EPIPE, "closed")


def test_limit_on_the_size_of_files(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from faultcli.files import atomic_output\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with atomic_output(sys.argv[1]) as temporary: temporary.write_bytes(bytes(8192))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out"], capture_output=True, text=True, check=False, cwd=os.getcwd()
    )
    assert run.returncode == 1
    assert "OutputError" in run.stderr
    assert "ulimit" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "plain.d").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    cases = {
        "device": "is not a regular file",
        "missing/out": "its directory .*missing does not exist",
        "file/out": "a part of its path is not a directory",
        "directory": "is a directory",
        "pipe": "is not a regular file",
        "x" * 300: "the name is too long",
    }
    for name, words in cases.items():
        with pytest.raises(OutputError, match=words), atomic_output(tmp_path / name, force=True):
            raise AssertionError("not reached")
    with pytest.raises(OutputError, match="is a file"), atomic_directory(tmp_path / "file", force=True):
        raise AssertionError("not reached")


def test_inputs_are_never_replaced(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text("precious")
    (tmp_path / "soft").symlink_to(source)
    os.link(source, tmp_path / "hard")
    (tmp_path / "sub").mkdir()
    for target in (source, tmp_path / "soft", tmp_path / "hard", tmp_path / "sub" / ".." / "in"):
        for force in (False, True):
            with (
                pytest.raises(OutputError, match="inputs are never changed"),
                atomic_output(target, force=force, inputs=[source]),
            ):
                raise AssertionError("not reached")
    assert source.read_text() == "precious"


def test_forced_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("shared")
    (tmp_path / "link").symlink_to("blob")
    with atomic_output(tmp_path / "link", force=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "blob").read_text() == "shared"
    assert (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()


def test_directory_replaces_only_what_looks_like_a_checkpoint(tmp_path: Path) -> None:
    home, other, old = tmp_path / "home", tmp_path / "other", tmp_path / "old"
    (home / "documents").mkdir(parents=True)
    (home / "model.safetensors").touch()
    other.mkdir()
    (other / "thesis.txt").touch()
    old.mkdir()
    (old / "model.safetensors").write_text("old")
    for target in (home, other):
        with (
            pytest.raises(OutputError, match="holds more than a checkpoint"),
            atomic_directory(target, force=True),
        ):
            raise AssertionError("not reached")
    with pytest.raises(OutputError, match="exists already"), atomic_directory(old):
        raise AssertionError("not reached")
    (tmp_path / "link").symlink_to(old)
    with atomic_directory(tmp_path / "link", force=True) as temporary:
        (temporary / "model.safetensors").write_text("new")
    assert (tmp_path / "link" / "model.safetensors").read_text() == "new"
    assert (old / "model.safetensors").read_text() == "old"
    with atomic_directory(old, force=True) as temporary:
        (temporary / "x.safetensors").write_text("newer")
    assert [entry.name for entry in old.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("kernel", ["works", "refuses", "absent", "returns nothing"])
def test_copy_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    if kernel == "refuses":
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    elif kernel == "returns nothing":
        monkeypatch.setattr(os, "copy_file_range", lambda *_, **__: 0, raising=False)
    elif kernel == "absent":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    data = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(data)
    steps: list[int] = []
    with open(tmp_path / "a", "rb", buffering=0) as source, open(tmp_path / "b", "wb", buffering=0) as target:
        files.write_all(target, memoryview(b"head"))
        copy_range(source, 7, 2_500_000, target, steps.append)
        copy_range(source, 0, 0, target)
        files.write_all(target, memoryview(b"tail"))
        with pytest.raises(EOFError):
            copy_range(source, 3_000_000, 2, target)
    assert (tmp_path / "b").read_bytes()[:-1] == b"head" + data[7:2_500_007] + b"tail"
    assert sum(steps) == 2_500_000


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to know which file a descriptor is")
@pytest.mark.parametrize("force", [False, True])
def test_content_is_on_the_disk_before_the_name_and_the_name_before_it_returns(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spy on what the operating system is asked for, in order."""
    asked: list[str] = []
    flush, link, rename = os.fsync, os.link, os.replace

    def spy_flush(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        asked.append("directory" if path == tmp_path else f"content {path.read_bytes()!r}")
        flush(descriptor)

    def spy_link(*paths: Any, **how: Any) -> None:
        asked.append("name")
        link(*paths, **how)

    def spy_rename(*paths: Any, **how: Any) -> None:
        asked.append("name")
        rename(*paths, **how)

    monkeypatch.setattr(os, "fsync", spy_flush)
    monkeypatch.setattr(os, "link", spy_link)
    monkeypatch.setattr(os, "replace", spy_rename)
    monkeypatch.setattr(os, "rename", spy_rename)
    target = tmp_path / "out"
    if force:
        target.write_bytes(b"old")
    with atomic_output(target, force=force) as temporary:
        temporary.write_bytes(b"all of it")
    assert asked == ["content b'all of it'", "name", "directory"]
    assert target.read_bytes() == b"all of it"


KILLED = """
import os, sys, time
from pathlib import Path
from faultcli.files import atomic_directory, atomic_output
with (atomic_directory if sys.argv[1] == "folder" else atomic_output)(Path(sys.argv[2])) as temporary:
    (temporary / "part.safetensors" if temporary.is_dir() else temporary).write_bytes(b"x" * 100_000)
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_output_removes_what_a_killed_process_left(tmp_path: Path, kind: str) -> None:
    write = {"file": atomic_output, "folder": atomic_directory}[kind]
    process = subprocess.Popen([sys.executable, "-c", KILLED, kind, str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    with atomic_output(tmp_path / "other") as other:
        other.write_text("beside it")
    assert len(list(tmp_path.glob(".faultcli-*"))) == 1, "what a living process writes is left alone"
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(list(tmp_path.glob(".faultcli-*"))) == 1
    with write(tmp_path / "out") as temporary:  # type: ignore[operator]
        if kind == "file":
            temporary.write_text("new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "out"]


def test_a_database_goes_with_its_journal(tmp_path: Path) -> None:
    left = files._temporary(tmp_path / "s.sqlite").name
    for name in (left, f"{left}-journal", ".faultcli.notes"):
        (tmp_path / name).write_text("left")
    files.remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".faultcli.notes"]


def test_a_temporary_file_that_was_just_made_stays(tmp_path: Path) -> None:
    made = files._temporary(tmp_path / "out")
    made.touch()
    files.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir())
    os.utime(made, (1, 1))
    files.remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_folders_change_places_in_one_step(tmp_path: Path) -> None:
    """At no time is there nothing under the name; a system that cannot do it says so."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "a").touch()
    if files._exchange(one, other):
        assert not list(one.iterdir())
        assert [entry.name for entry in other.iterdir()] == ["a"]
    assert not files._exchange(one, tmp_path / "gone")


def test_only_what_is_surely_left_over_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a network disk may not reach other machines, a folder moved aside may be the only copy, and a pipe
    blocks who opens it."""
    aside = files._temporary(tmp_path / "folder").name.replace("faultcli-", "faultcli-old-")
    (tmp_path / aside).mkdir()
    (tmp_path / aside / "model.safetensors").write_text("old")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    link = files._temporary(tmp_path / "link")
    link.symlink_to("precious")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(files, "_MACHINE", "ffffff" if files._MACHINE != "ffffff" else "000000")
        foreign = files._temporary(tmp_path / "out")
    foreign.write_text("being written")
    os.mkfifo(pipe := files._temporary(tmp_path / "pipe"))
    os.utime(pipe, (1, 1))
    files.remove_leftovers(tmp_path)
    assert (tmp_path / aside / "model.safetensors").read_text() == "old"
    assert (tmp_path / "precious" / "file").exists()
    assert foreign.read_text() == "being written"
    os.utime(foreign, (1, 1))
    files.remove_leftovers(tmp_path)
    assert not foreign.exists()
    assert link.is_symlink()
    for path in (link, tmp_path / aside / "model.safetensors"):
        path.unlink()
    (tmp_path / aside).rmdir()
