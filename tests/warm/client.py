"""Hand a command line to the server and end as its fork does. No module of this project or beyond is loaded."""

import array
import json
import os
import signal
import socket
import sys


def opened(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def main() -> None:
    streams = [number for number in range(3) if opened(number)]
    asked = {"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ), "streams": streams}
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))] if streams else []
    connection.sendmsg([b"x"], rights)
    connection.sendall(json.dumps(asked).encode() + b"\n")
    answers = connection.makefile()
    process = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda given, _frame: os.kill(process, given))
    code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
