"""`beluna-gateway reload`: sends SIGHUP to the daemon that serves a socket, and waits for the outcome."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

from ..client import connect
from .lookup import socket_path, tell_no_daemon
from .no_daemon import status_of
from .outcome import FAILED, OK, WRONG_CONFIG, complain

OUTCOME_SECONDS = 15.0
"""How long the daemon may take; it gives up reading the file itself after 10 s."""

_POLL_SECONDS = 0.02


class NotReloaded(Exception):
    """The daemon could not be asked, or told no outcome in time."""


class WrongFile(Exception):
    """The daemon found mistakes, which are the message; the configuration in effect is unchanged."""


async def reload_daemon(path: Path) -> int:
    """Has the daemon at `path` reload its configuration; returns its process id.

    The daemon names its process in a `status` frame. SO_PEERCRED does not do: for a socket that systemd made, it names
    systemd, whose SIGHUP means something else.

    Raises:
        OSError: No daemon answers at `path`.
        NotReloaded: It could not be asked, or did not end in time.
        WrongFile: It refused the file.
    """
    async with connect(path) as client:
        status = await status_of(client)
        pid: int = status["pid"]
        if "reloads" not in status:
            raise NotReloaded(
                f"the daemon (pid {pid}) is of version {status['version']}, which cannot reload; restart it"
            )
        before = status["reloads"]
        _send_hangup(pid)
        try:
            async with asyncio.timeout(OUTCOME_SECONDS):
                while True:
                    after = (await client.status())["reloads"]
                    ended = after["ok"] + after["failed"] > before["ok"] + before["failed"]
                    if ended and not after["running"]:
                        break
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise NotReloaded(
                f"the daemon (pid {pid}) got SIGHUP, but told no outcome within {OUTCOME_SECONDS:.0f} s; see its log"
            ) from None
    if after["last_error"] is not None:
        raise WrongFile(after["last_error"])
    return pid


def _send_hangup(pid: int) -> None:
    """Sends SIGHUP, which would end a process that does not handle it: only to one that is a daemon of ours."""
    try:
        process = os.pidfd_open(pid)  # names this very process, also where it ends and its number is given away
    except ProcessLookupError:
        raise NotReloaded(_elsewhere(pid)) from None
    try:
        if b"beluna" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            raise NotReloaded(_elsewhere(pid))
        signal.pidfd_send_signal(process, signal.SIGHUP)
    except PermissionError:
        raise NotReloaded(
            f"no permission to send SIGHUP to the daemon (pid {pid}), which runs as another user: do this as that user "
            "or as root; under systemd: systemctl reload beluna-gateway.service"
        ) from None
    except (FileNotFoundError, ProcessLookupError):
        raise NotReloaded(_elsewhere(pid)) from None
    finally:
        os.close(process)


def _elsewhere(pid: int) -> str:
    return (
        f"the daemon says that it is process {pid}, but here that is none of its kind: it runs in another container; "
        "send SIGHUP to it there"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    path = socket_path(options)
    if isinstance(path, int):
        return path
    try:
        pid = asyncio.run(reload_daemon(path))
    except NotReloaded as error:
        complain(str(error))
        return FAILED
    except WrongFile as error:
        complain(f"not reloaded, the daemon goes on as before: {error}")
        return WRONG_CONFIG
    except OSError as error:
        return tell_no_daemon(path, error)
    print(f"reloaded (pid {pid})")
    return OK
