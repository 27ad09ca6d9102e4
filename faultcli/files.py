"""Outputs that appear whole or not at all, and the few ways of moving bytes that every reader and writer shares.

An output is written under a temporary name beside its target, flushed to the disk and renamed. Whatever goes wrong
before the rename (an exception, a full disk, Ctrl-C) removes the temporary file and leaves the target as it was. A
process that is killed removes nothing; but it lets go of the lock that it held on the temporary file, and the next
output in the same folder removes what nobody holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from io import FileIO
from pathlib import Path

from faultcli.errors import OutputError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:6]  # locks may not reach from one to another
_TEMPORARY = re.compile(r"\.faultcli-([0-9a-f]{6})[0-9a-f]{12}(\.[^-]*)?")
_OF_A_CHECKPOINT = (".safetensors", ".safetensors.index.json")
_YOUNG_SECONDS = 10.0
_FOREIGN_SECONDS = 24 * 3600.0
_CWD, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_CHUNK = 1 << 20  # bytes per read of the fallback copy
_KERNEL_CHUNK = 64 << 20  # bytes per system call of the kernel copy: short enough for progress and for Ctrl-C
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
_NO_RESERVATION = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENODEV, errno.ESPIPE, errno.EBADF}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}
_REASONS: dict[int | None, tuple[str, str]] = {
    errno.ENOSPC: ("no space is left on the disk", "free some space, or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk"),
    errno.EFBIG: ("the file is larger than the file system or a limit (ulimit -f) allows", "write to another place"),
    errno.EROFS: ("the file system is read-only", "write to another place"),
    errno.EACCES: ("permission denied", "write to a directory of your own"),
    errno.EPERM: ("permission denied", "write to a directory of your own"),
    errno.ENOENT: ("its directory does not exist", "create the directory first"),
    errno.ENOTDIR: ("a part of its path is not a directory", "correct the path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    errno.EMFILE: ("too many files are open for the limit of this shell", "allow more: ulimit -n 1024"),
    errno.ELOOP: ("its links lead to each other", "correct the path"),
    errno.EBUSY: ("it is in use as a mount point", "choose another place"),
}
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextlib.contextmanager
def atomic_output(path: str | Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the path of an empty temporary file that becomes `path` when the block ends without an exception.

    The temporary file lies in the target's directory and has its suffix, so that writers that look at the suffix
    (numpy, matplotlib) work. The output gets the permissions of the file it replaces, or the usual ones. A target
    that is a symbolic link is itself replaced; what it points to is left alone.

    Args:
        path: the target, a file in an existing directory.
        force: replace an existing file. Without it a target that appears while the block runs is kept, too.
        inputs: files that must not be replaced, even with `force`; also found through symbolic and hard links.

    Raises:
        OutputError: the target exists, is an input, is not a regular file or cannot be written. An OSError raised in
            the block becomes an OutputError unless it names another file than the temporary one.
    """
    target = Path(path)
    with _reported(target):
        old = _examine(target, force=force, inputs=inputs)
        if old is not None and stat.S_ISDIR(old.st_mode):
            raise OutputError(f"{target}: is a directory; the output is a file", "name a file")
        if old is not None and not _replaceable(target, old):
            raise OutputError(f"{target}: is not a regular file and cannot be replaced", "name a regular file")
        remove_leftovers(target.parent)
        temporary = _temporary(target)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with _held(temporary):
            with _reported(target, temporary):
                yield temporary
            with _reported(target):
                _flush(temporary)
                if old is not None and stat.S_ISREG(old.st_mode):
                    temporary.chmod(stat.S_IMODE(old.st_mode))
                if force:
                    temporary.replace(target)
                else:
                    _rename_new(temporary, target)
                _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Raise what `atomic_output` with these arguments would raise at once, before any work is done. Writes nothing."""
    with contextlib.suppress(_Enough), atomic_output(path, force=force, inputs=inputs):
        raise _Enough


class _Enough(Exception):  # noqa: N818
    """Leaves `atomic_output` without an output."""


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, *, force: bool = False, inputs: Iterable[Path] = (), brings: Collection[str] = ()
) -> Iterator[Path]:
    """Yield an empty temporary directory that becomes `path` when the block ends without an exception.

    With `force` an existing directory is renamed away, and deleted once the new one is in its place. Only a
    directory that holds a checkpoint and plain files, or nothing, is ever deleted: a home directory is refused.
    Folders in it are, but for those that the new one has too, with all that is in them.

    Args:
        path: the target, a directory in an existing directory.
        force: replace an existing directory.
        inputs: files that must not lie in the directory that is replaced, even with `force`.
        brings: what the new directory will hold in folders, and the folders, by their paths in it.

    Raises:
        OutputError: as `atomic_output`; also if the existing target is a file, or holds more than a checkpoint.
    """
    target = Path(path)
    with _reported(target):
        old = _examine(target, force=force, inputs=inputs)
        if old is not None:
            _check_replaceable(target, inputs, brings)
        remove_leftovers(target.parent)
        temporary = _temporary(target)
        temporary.mkdir()
    aside = temporary.with_name(temporary.name.replace("faultcli-", "faultcli-old-"))
    try:
        with _held(temporary):
            with _reported(target, temporary):
                yield temporary
            with _reported(target):
                for entry in temporary.rglob("*"):
                    _flush(entry)
                _flush(temporary)
                if old is not None and _exchange(temporary, target):
                    aside = temporary  # which now holds the old one
                else:
                    if old is not None:
                        target.rename(aside)
                    elif os.path.lexists(target):
                        raise _exists(target)
                    temporary.rename(target)
                _flush(target.parent)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(target):
            aside.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if aside.is_symlink():
            aside.unlink()
        else:
            shutil.rmtree(aside, ignore_errors=True)


def copy_range(
    source: FileIO, start: int, length: int, target: FileIO, progress: Callable[[int], None] | None = None
) -> None:
    """Append `length` bytes from byte `start` of `source` at `target`'s position, in the kernel where it can.

    Both are unbuffered binary files; `progress` gets the bytes written since its last call. Raises EOFError if the
    source ends early and OSError if a write fails.
    """
    done = 0
    while done < length and hasattr(os, "copy_file_range"):
        count = min(length - done, _KERNEL_CHUNK)
        try:
            copied = os.copy_file_range(source.fileno(), target.fileno(), count, offset_src=start + done)
        except OSError as error:
            if error.errno in _NO_KERNEL_COPY:
                break
            raise
        if copied == 0:
            break
        done += copied
        if progress is not None:
            progress(copied)
    if done == length:
        return
    source.seek(start + done)
    chunk = memoryview(bytearray(min(_CHUNK, length - done)))
    while done < length:
        count = source.readinto(chunk[: length - done])
        if not count:
            raise EOFError(f"{length - done} bytes are missing")
        write_all(target, chunk[:count])
        done += count
        if progress is not None:
            progress(count)


def reserve(file: FileIO, nbytes: int) -> None:
    """Make an empty file `nbytes` long, where the system can: a full disk shows at once, writes are faster."""
    if nbytes and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        except OSError as error:
            if error.errno not in _NO_RESERVATION:
                raise


def write_all(target: FileIO, data: memoryview) -> None:
    """Write all of `data` (a flat view of bytes) to an unbuffered file; one call of its `write` may stop half-way."""
    while len(data):
        data = data[target.write(data) :]


def _examine(target: Path, *, force: bool, inputs: Iterable[Path]) -> os.stat_result | None:
    """Return what lies at the target (a link itself, not what it points to), None if nothing does."""
    try:
        old = target.lstat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            remedy = f"create it first: mkdir -p '{target.parent}'"
            raise OutputError(f"{target}: its directory {target.parent} does not exist", remedy) from None
        return None
    for file in inputs:
        with contextlib.suppress(FileNotFoundError):
            if target.samefile(file):
                raise OutputError(f"{target}: is the input; inputs are never changed", "choose another -o")
    if not force:
        raise _exists(target)
    return old


def _replaceable(target: Path, old: os.stat_result) -> bool:
    """Whether it is a plain file, or a link to one or to nothing: /dev/stdout is a link, and not to be replaced."""
    if not stat.S_ISLNK(old.st_mode):
        return stat.S_ISREG(old.st_mode)
    return target.is_file() or target.is_dir() or not target.exists()


def _check_replaceable(target: Path, inputs: Iterable[Path], brings: Collection[str]) -> None:
    """Refuse to replace what is no directory, holds an input, or does not look like a checkpoint's directory."""
    if not target.is_dir():
        raise OutputError(f"{target}: is a file; the output is a directory of shards", "name a directory")
    resolved = target.resolve()
    if any(resolved in (file.resolve(), *file.resolve().parents) for file in inputs):
        raise OutputError(f"{target}: holds the input; inputs are never changed", "choose another -o")
    kept = _not_in(target, brings)
    entries = os.listdir(target)
    if kept is None and entries and not any(name.endswith(_OF_A_CHECKPOINT) for name in entries):
        kept = min(entries)
    if kept is not None:
        message = f"{target}: holds more than a checkpoint ({kept}); it is not deleted to make room for the output"
        raise OutputError(message, "choose another -o, or delete it yourself")


def _not_in(target: Path, brings: Collection[str]) -> str | None:
    """Return the first folder, or file in one, that the new directory will not hold."""
    for folder, folders, files in os.walk(target):
        at = Path(folder).relative_to(target)
        for name in [*folders, *(files if at.parts else ())]:
            path: str = (at / name).as_posix()
            if path not in brings:
                return path
    return None


def is_temporary(name: str) -> bool:
    """Whether a name is that of an output that is being written, or was when its process was killed."""
    return name.startswith(".faultcli-")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of processes that are gone: those on which nobody holds a lock. One that is
    empty and young may just have been made, and not be locked yet; of another machine, whose locks a network disk may
    not show, only what nobody has written to for a day. What was moved aside stays: it may be all that is left."""
    try:
        found = [match for entry in os.scandir(folder) if (match := _TEMPORARY.fullmatch(entry.name))]
    except OSError:
        return
    for match in found:
        path = folder / match[0]
        with contextlib.suppress(OSError), _held(path, wait=False):
            about = path.lstat()
            age = time.time() - about.st_mtime
            empty = not any(path.iterdir()) if path.is_dir() else about.st_size == 0
            if (empty and age < _YOUNG_SECONDS) or (match[1] != _MACHINE and age < _FOREIGN_SECONDS):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                continue
            path.unlink(missing_ok=True)
            for companion in folder.glob(f"{path.name}-*"):  # of a database: its journal
                companion.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a temporary file or folder, which says that its process lives; a system may not have locks.

    Raises:
        OSError: `wait` is off and somebody holds it, or there is no such file.
    """
    if fcntl is None:
        if not wait:
            raise OSError(errno.ENOTSUP, "no locks here")
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system cannot."""
    try:
        change = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(change(_CWD, os.fsencode(one), _CWD, os.fsencode(other), _EXCHANGE) == 0)


def _temporary(target: Path) -> Path:
    return target.parent / f".faultcli-{_MACHINE}{secrets.token_hex(6)}{target.suffix}"


def _rename_new(temporary: Path, target: Path) -> None:
    """Rename without replacing. A hard link refuses an existing target in the same step; not every disk has them."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise _exists(target) from None
        temporary.replace(target)


def _flush(path: Path) -> None:
    """Bring a file's content, or a directory's list of names, from the page cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # not every file system can sync directories, and the output is in its place
            raise
    finally:
        os.close(descriptor)


def _exists(target: Path) -> OutputError:
    return OutputError(f"{target}: exists already", "--force, or another -o")


@contextlib.contextmanager
def _reported(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn the OSError of a write into an OutputError. With `temporary`, one that names another file passes."""
    try:
        yield
    except ConnectionError:
        raise  # a closed pipe is not the output's fault
    except OSError as error:
        named = None if error.filename is None else os.fsdecode(error.filename)
        foreign = temporary is not None and named is not None and not named.startswith(str(temporary))
        if foreign and error.errno not in _DISK_ERRORS:
            raise
        reason, remedy = _REASONS.get(error.errno, (error.strerror or str(error), "choose another -o"))
        raise OutputError(f"{target}: cannot be written: {reason}", remedy) from error
