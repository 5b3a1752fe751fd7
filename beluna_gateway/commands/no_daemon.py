"""Why nobody answers at a socket, or not in time, in a sentence for the person who tried, with what to do."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Any

from ..client import GatewayClient

ANSWER_SECONDS = 10.0
"""How long a daemon may take for a `status` frame; one that systemd starts for it, too."""


async def status_of(client: GatewayClient, seconds: float | None = None) -> dict[str, Any]:
    """A `status` frame.

    Raises:
        ConnectionError: The daemon does not answer (it has ended, or hangs), or it is no daemon of ours.
    """
    seconds = ANSWER_SECONDS if seconds is None else seconds
    try:
        async with asyncio.timeout(seconds):
            frame = await client.status()
    except TimeoutError:
        raise ConnectionError(f"the daemon has not answered for {seconds:g} s") from None
    if not {"version", "pid"} <= frame.keys():  # which every daemon tells
        raise ConnectionError("who answers there is no beluna-gateway")
    return frame


def why_not(path: Path, error: OSError) -> str:
    """What `error`, which came from connecting to `path`, means here."""
    if isinstance(error, PermissionError):
        return f"permission denied: {_missing_permission(path)}"
    if error.errno is None:  # connected, and left without an answer: `client.DaemonGone`
        return f"{error} ({path}); its log says why, under systemd: journalctl --unit beluna-gateway"
    why = error.strerror or error
    start = "beluna-gateway serve"
    if path.parent == Path("/run"):
        start += ", or with systemd: sudo systemctl start beluna-gateway.socket"
    return f"no daemon answers at {path} ({why}); start one: {start}"


def _missing_permission(path: Path) -> str:
    """Which permission for `path` this process does not have. Connecting needs write permission on the socket."""
    for folder in reversed(path.absolute().parents):
        if not os.access(folder, os.X_OK):
            return f"you ({_user(os.geteuid())}) may not enter {folder}, where the daemon's socket {path.name} is"
    try:
        there = path.stat()
    except OSError as error:
        return f"you ({_user(os.geteuid())}) may not use {path} ({error.strerror})"
    mode = f"{stat.S_IMODE(there.st_mode):04o}"
    owner, group = _user(there.st_uid), _group(there.st_gid)
    if not there.st_mode & stat.S_IWGRP:
        return f"{path} has the mode {mode}, so only its owner {owner} may connect (server.socket_mode)"
    me = _user(os.geteuid())
    if _is_member(me, there.st_gid):
        return f"{path} is for the group {group}, of which you ({me}) became a member after you logged in; log in again"
    join = (
        f"; to join it: sudo usermod --append --groups {group} {me}, then log in again" if " " not in me + group else ""
    )
    return f"you ({me}) are not in the group {group}, which {path} is for (mode {mode}){join}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"


def _is_member(user: str, gid: int) -> bool:
    """By the system's tables, whatever groups this process has."""
    try:
        return user in grp.getgrgid(gid).gr_mem or pwd.getpwnam(user).pw_gid == gid
    except KeyError:
        return False
