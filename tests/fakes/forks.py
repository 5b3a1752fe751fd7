"""`python -m beluna_gateway …` without Python's start: forks of one process that has imported the package.

A command needs 0.2 to 0.4 s of CPU where Python starts, and 0.05 s where it does not. Each fork is a process of its
own, with its own arguments, environment, folder and standard streams, and ends as an interpreter does. What depends on
the start itself is tested with programs that are started: the daemons of all tests, `tests/commands`, and `start` of
`commands.py`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile


class ForkServer:
    """The process that is forked. It ends with this side of its socket."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            number = other.fileno()
            command = [sys.executable, "-P", __file__, str(number)]
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[number])

    async def run(
        self, arguments: Sequence[str], stdin: bytes, folder: Path | None, environment: Mapping[str, str]
    ) -> tuple[int, bytes, bytes]:
        """Exit status, standard output and standard error of one command."""
        request = {"arguments": list(arguments), "folder": os.fspath(folder or Path.cwd()), "environment": environment}
        ours, theirs = socket.socketpair()
        with ours, TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            with theirs:
                descriptors = [given.fileno(), out.fileno(), err.fileno(), theirs.fileno()]
                socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            ours.setblocking(False)
            status = await asyncio.get_running_loop().sock_recv(ours, 16)
            out.seek(0)
            err.seek(0)
            return int(status), out.read(), err.read()

    def close(self) -> None:
        """Ends it; the commands have ended before."""
        self._socket.close()
        assert self._process.wait(20) == 0


# --- in the process itself ---


def _serve(number: int) -> int:
    """Forks for each request; the exit status, in a fork that of its command."""
    import beluna_gateway.adapters.http.adapter
    import beluna_gateway.daemon.server  # noqa: F401
    from beluna_gateway.cli import main

    gc.freeze()  # a fork that collected what is here would copy all of its memory first
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for a command
    with socket.socket(fileno=number) as requests:
        while True:
            line, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 4)
            if not line:
                return 0
            if not os.fork():
                break
            for descriptor in descriptors:
                os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = socket.socket(fileno=descriptors.pop())
    if command := os.fork():
        _, status = os.waitpid(command, 0)
        told.send(b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    told.close()
    _become(descriptors, **json.loads(line))
    return main()


def _become(descriptors: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)  # under this process' own streams, which nothing was read from or written to
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments


if __name__ == "__main__":
    sys.exit(_serve(int(sys.argv[1])))
