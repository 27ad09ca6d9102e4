"""Load everything once; for each connection, fork: the child becomes the command, the parent says how it ended."""

import atexit
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

import typer.main

import faultcli.cli


def load() -> None:
    """Import what commands import where they need it, and build their options; no thread starts."""
    for module in pkgutil.walk_packages(faultcli.__path__, "faultcli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(faultcli.cli.app)
    gc.collect()
    gc.freeze()  # a collection in a child touches no page of what is loaded


def asked(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(1 << 16)
    return json.loads(line), files


def become(wanted: dict[str, Any], files: list[int]) -> None:
    """In the child: the streams, the folder, the environment and the arguments of the client."""
    for number in range(3):
        os.close(number)
    for number, file in zip(wanted["streams"], files, strict=True):
        os.dup2(file, number)
        os.set_inheritable(number, True)
        os.close(file)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.argv = ["faultcli", *wanted["arguments"]]
    streams = [stream(number) if number in wanted["streams"] else None for number in range(3)]
    sys.stdin, sys.stdout, sys.stderr = streams
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = streams


def stream(number: int) -> io.TextIOWrapper:
    """As Python opens it: standard error by lines, and no character is too much for it."""
    mode = "rb" if number == 0 else "wb"
    errors = "backslashreplace" if number == 2 else "strict"
    lines = number == 2 or os.isatty(number)
    binary = open(number, mode, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(binary, encoding="utf-8", errors=errors, line_buffering=lines)


def serve(path: str) -> bool:
    """Answer until standard input closes. Return whether this is a child."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(16)
    print("ready", flush=True)
    with selectors.DefaultSelector() as ready:
        ready.register(server, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is sys.stdin:
                    return False
                if key.fileobj is server:
                    connection, _ = server.accept()
                    wanted, files = asked(connection)
                    process = os.fork()
                    if process == 0:
                        ready.close()
                        connection.close()
                        server.close()
                        become(wanted, files)
                        return True
                    for file in files:
                        os.close(file)
                    connection.sendall(f"{process}\n".encode())
                    ended = os.pidfd_open(process)
                    ready.register(ended, selectors.EVENT_READ, (process, connection))
                    ready.register(connection, selectors.EVENT_READ, (process, ended))
                elif isinstance(key.fileobj, int):  # a child has ended
                    process, connection = key.data
                    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    ready.unregister(key.fileobj)
                    ready.unregister(connection)
                    os.close(key.fileobj)
                    with suppress(OSError):  # the client may be gone
                        connection.sendall(f"{code}\n".encode())
                    connection.close()
                elif key.fileobj in ready.get_map():  # the client was killed, and its child has not ended meanwhile
                    os.kill(key.data[0], signal.SIGKILL)


def end(code: int) -> NoReturn:
    """As the interpreter does, but for taking all modules apart: every page of them is shared with the server."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for written in (sys.stdout, sys.stderr):
        try:
            if written is not None:
                written.flush()
        except OSError:
            code = 120
    os._exit(code)


if __name__ == "__main__":  # workers of a command load this file without running it
    load()
    if serve(sys.argv[1]):
        from faultcli.cli import main

        try:
            main()
        except SystemExit as stop:
            end(int(stop.code or 0))
