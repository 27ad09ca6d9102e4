"""The file of a store: opened as what it is, changed whole or not at all, and every failure said in words.

`boundary` is the one place where what SQLite or the content of a file throws becomes an error of the user's.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faultcli.campaign.store_checks import Damaged
from faultcli.errors import FaultcliError, OutputError

APPLICATION_ID = 0x6661756C  # "faul", in the file's header: what tells a store from another SQLite file
VERSION = 1
BUSY_SECONDS = 30.0  # a reader can hold a commit up for a moment

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE campaign (
    base TEXT NOT NULL, inputs INTEGER NOT NULL, original TEXT NOT NULL, asked TEXT NOT NULL, provenance TEXT);
CREATE TABLE arms (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, bits INTEGER, overhead REAL, stored TEXT);
CREATE TABLE trials (
    arm INTEGER NOT NULL REFERENCES arms, trial INTEGER NOT NULL, flips INTEGER NOT NULL,
    values_changed INTEGER NOT NULL, outcome TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (arm, trial)) WITHOUT ROWID;
CREATE TABLE failures (
    arm INTEGER NOT NULL REFERENCES arms, trial INTEGER NOT NULL, cause TEXT NOT NULL, PRIMARY KEY (arm, trial));
"""
# In stores that have single flips, made with the first one: files of before are read as they are, and by others.
SINGLE_FLIPS = """
CREATE TABLE IF NOT EXISTS single_flips (
    arm INTEGER NOT NULL REFERENCES arms, trial INTEGER NOT NULL, flip TEXT NOT NULL, PRIMARY KEY (arm, trial))
"""
# In stores of `where`, made when it comes to an end.
ANSWERS = "CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY, document TEXT NOT NULL)"

_NAME_ONE = "name what campaign --store wrote"
_ANOTHER = "use another file"
_TAKE_A_COPY = "take a copy from before the damage, or start another store"

# By SQLite's code, or its lower byte: what is wrong with the file, and what to do. The others are damage.
_NOT_THE_CONTENT = {
    sqlite3.SQLITE_BUSY: ("is in use by another process", f"wait until that is done, or {_ANOTHER}"),
    sqlite3.SQLITE_LOCKED: ("is in use by another process", f"wait until that is done, or {_ANOTHER}"),
    sqlite3.SQLITE_FULL: ("cannot be written: no space is left on the disk", "free some space; trials so far are kept"),
    sqlite3.SQLITE_READONLY_DBMOVED: ("was removed or renamed while it was open", "leave it; run the same again"),
    sqlite3.SQLITE_READONLY: ("cannot be written: it is read-only", f"make it writable, or {_ANOTHER}"),
    sqlite3.SQLITE_PERM: ("cannot be opened: permission denied", f"change its permissions, or {_ANOTHER}"),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened, or its journal not be written beside it",
        f"change the permissions of the file and of its folder, or {_ANOTHER}",
    ),
    sqlite3.SQLITE_IOERR: (
        "cannot be read or written: the disk reports an error, is full, or a limit (ulimit -f) is reached",
        f"free some space and look at the disk, or {_ANOTHER}",
    ),
}


class StoreError(FaultcliError):
    """A store cannot be read, or holds another campaign than the one that is asked for."""


@contextmanager
def boundary(name: str) -> Iterator[None]:
    """Turn whatever a store's file does wrong into an error that names the store.

    Raises:
        StoreError: the content is no store's, or damaged.
        OutputError: the content is not to blame: the file is in use, read-only, on a full disk.
    """
    try:
        yield
    except Damaged as error:
        raise StoreError(f"{name}: is damaged, or written by another faultcli: {error}", _TAKE_A_COPY) from None
    except sqlite3.ProgrammingError:
        raise  # a mistake of ours
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the second where a message of SQLite quotes broken text
        code = getattr(error, "sqlite_errorcode", None)  # Python's own errors, such as text that is no UTF-8, have none
        found = None if code is None else _NOT_THE_CONTENT.get(code, _NOT_THE_CONTENT.get(code & 0xFF))
        if found is not None:
            raise OutputError(f"{name}: {found[0]} ({error})", found[1]) from None
        raise StoreError(f"{name}: is no store of faultcli, or is damaged ({error})", _NAME_ONE) from None


def connect(path: Path | None, name: str) -> sqlite3.Connection:
    """Open a store's file to write to; it is made if there is none, or an empty one.

    Args:
        path: any file name is one, also `:memory:` and `file:x`; None: in this process only.
        name: for messages.

    Raises:
        StoreError, OutputError: see `boundary`; or it lies where no file can be.
    """
    if path is not None:
        if not path.exists() and not path.parent.is_dir():
            raise OutputError(f"{name}: its directory {path.parent} does not exist", "create the directory first")
        if path.exists() and not path.is_file():
            raise OutputError(f"{name}: is no regular file", "name a file")
    with boundary(name), _closed_on_error(_open(path, "rwc")) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            with transaction(connection):
                if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in SCHEMA.split(";"):
                        connection.execute(statement)
        _check(connection, name)
        return connection


def connect_to_read(path: Path, name: str) -> sqlite3.Connection:
    """Open a store's file to read only, also while a campaign writes to it.

    Raises:
        StoreError, OutputError: see `boundary`; or there is none.
    """
    if not path.is_file():
        raise StoreError(f"{name}: there is no such store", "it is what campaign --store FILE writes")
    with boundary(name):
        try:
            with _closed_on_error(_open(path, "ro")) as connection:
                _check(connection, name)
                return connection
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
        # A campaign was killed in the middle of a commit. Opened to write, the file goes back to the last whole one.
        with contextlib.closing(_open(path, "rw")) as writing:
            writing.execute("SELECT count(*) FROM sqlite_master").fetchone()
        with _closed_on_error(_open(path, "ro")) as connection:
            _check(connection, name)
            return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all that the block writes, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has rolled back already; what went wrong first is what is to be said.
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def _open(path: Path | None, mode: str) -> sqlite3.Connection:
    # As an absolute URI, no name means anything but a file: not `:memory:`, nor `file:x`.
    place = "file::memory:" if path is None else f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(place, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def _check(connection: sqlite3.Connection, name: str) -> None:
    """Refuse what is no store of this version, has other tables or columns than one, or broken pages."""
    connection.execute("PRAGMA trusted_schema = OFF")
    found = (connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("application_id", "user_version"))
    application, version = found
    if application != APPLICATION_ID:
        raise StoreError(f"{name}: is a database, but no store of faultcli", _NAME_ONE)
    if version != VERSION:
        raise StoreError(
            f"{name}: is a store of version {version}; this faultcli reads version {VERSION}",
            "use the faultcli that wrote it, or start another --store",
        )
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(SCHEMA)
        needed = set(_tables(fresh))
        fresh.executescript(f"{SINGLE_FLIPS};{ANSWERS}")
        own = _tables(fresh)
    there = _tables(connection)
    for table, columns in own.items():
        if (table in needed or table in there) and there.get(table) != columns:
            raise Damaged(f"its table {table} is not as it was made")
    if connection.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('view', 'trigger')").fetchone()[0]:
        raise Damaged("it has views or triggers")
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()
    if problem != ("ok",):
        raise Damaged(str(problem[0] if problem else "its pages cannot be checked").splitlines()[-1])


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a store has a table, one that is made only when it is needed."""
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    return bool(connection.execute(query, (name,)).fetchone()[0])


def _tables(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return the columns of every table: name, type, whether it may be null, place in the key, kind."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    query = 'SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?)'
    return {name: connection.execute(query, (name,)).fetchall() for (name,) in names}
