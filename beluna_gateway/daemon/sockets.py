"""Unix sockets: the socket file, sockets handed over by systemd, the peer's user, and detection of hang-ups."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

FIRST_HANDED_OVER = 3  # sd_listen_fds(3)
BACKLOG = 1024
MAX_PATH_BYTES = 107  # unix(7): sun_path has 108, with the zero at its end

LOCK_SECONDS = 2.0
"""How long to wait for another process that holds a lock on the socket's folder."""

# From 3.13 on the event loop deletes a Unix server's socket file, also one that systemd made and keeps using.
KEEP_SOCKET_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Arguments for `create_unix_server`."""


class SocketError(Exception):
    """The socket cannot be made (exit status 73); the message says why and what to do."""


@contextmanager
def listening_socket(path: Path, mode: int) -> Iterator[socket.socket]:
    """A listening Unix socket at `path` with exactly `mode`; leaving removes the file, unless it was replaced.

    A socket file that refuses connections is replaced. Anything else at `path` is left untouched.

    Raises:
        SocketError: It cannot be made.
    """
    try:
        for folder in reversed([path.parent, *path.parent.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)  # with `parents` only the last one would get this mode
        with _locked(path.parent):
            _clear(path)
            listener = _bind(path, mode)
            ours = path.lstat()
    except OSError as error:
        raise SocketError(f"cannot listen on {path}: {error.strerror or error}") from error
    try:
        yield listener
    finally:
        listener.close()
        with suppress(OSError):
            now = path.lstat()
            if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
                path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one daemon at a time inspects and replaces the file: of two that start together, both might find it stale.

    Whoever may open the folder can hold the lock, so waiting for it ends after `LOCK_SECONDS`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise SocketError(
                    f"cannot listen in {folder}: another process has held a lock on this folder (flock) for "
                    f"{LOCK_SECONDS:.0f} s; `lslocks` names it"
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(path: Path) -> None:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return
    _check_is_socket(path, there.st_mode)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(os.fspath(path))
    if result == errno.ECONNREFUSED:
        path.unlink()
    elif result in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise SocketError(f"cannot listen on {path}: another daemon answers there; stop it or change socket_path")
    elif result != errno.ENOENT:
        raise SocketError(f"cannot listen on {path}: there is a socket, and asking it failed: {os.strerror(result)}")


def _check_is_socket(path: Path, mode: int) -> None:
    if not stat.S_ISSOCK(mode):
        kinds = {stat.S_IFREG: "a regular file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link"}
        found = kinds.get(stat.S_IFMT(mode), "something that is no socket")
        raise SocketError(f"cannot listen on {path}: {found} is there; move it away or change socket_path")


def _bind(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must be right from the moment the file exists, so chmod afterwards would be too late.
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        if "too long" in str(error):
            raise _too_long(path) from error
        raise
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _too_long(path: Path) -> SocketError:
    return SocketError(f"cannot listen on {path}: a Unix socket's path may have {MAX_PATH_BYTES} bytes")


def check_path(path: Path) -> None:
    """Looks whether `listening_socket` could listen at `path`, without contacting anybody or leaving anything. A socket
    that is there already is taken for the daemon's own, or one that systemd hands over.

    Raises:
        SocketError: It could not.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise _too_long(path)
    try:
        _check_is_socket(path, path.lstat().st_mode)
    except FileNotFoundError:
        folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        if not folder.is_dir():
            raise SocketError(f"cannot listen on {path}: {folder} is not a folder") from None
        _check_creatable(path, folder)
    except OSError as error:
        raise SocketError(f"cannot listen on {path}: {error.strerror}") from None


def _check_creatable(path: Path, folder: Path) -> None:
    """Makes a socket's file in `folder`, as `bind` does, and removes it: no permission tells of a folder like `/proc`,
    in which nobody can create anything.
    """
    attempt = folder / f".beluna-gateway-check-{os.getpid()}"
    try:
        os.mknod(attempt, stat.S_IFSOCK)
    except PermissionError:
        raise SocketError(f"cannot listen on {path}: this user may not write to {folder}") from None
    except OSError as error:
        raise SocketError(f"cannot listen on {path}: nothing can be created in {folder}: {error.strerror}") from None
    attempt.unlink()


def check_address(host: str, port: int) -> None:
    """Looks whether a TCP address can be listened on, without doing so. A name other than `localhost` is not looked up,
    and nothing is said about it.

    Raises:
        SocketError: It is not free, or not for this user.
    """
    try:
        found = socket.getaddrinfo(
            "127.0.0.1" if host == "localhost" else host or None,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE,
        )
    except socket.gaierror:
        return
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(address)
        except OSError as error:
            raise SocketError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def is_served(path: Path) -> bool:
    """Whether a process, which may be systemd, listens on the socket at `path`. It is not contacted: that would make
    systemd start the daemon.
    """
    # /proc/PID/net/unix (proc(5)): address of the kernel's structure, reference count, protocol, flags, type, state,
    # inode, path. Of the flags __SO_ACCEPTCON says that it listens.
    try:
        text = Path("/proc/self/net/unix").read_text(errors="surrogateescape")
    except OSError:
        return False
    for line in text.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _SO_ACCEPTCON and _is_same(fields[7], path):
            return True
    return False


_SO_ACCEPTCON = 0x10000


def _is_same(named: str, path: Path) -> bool:
    """A socket's own name for itself may lead through another folder, or be relative to another one."""
    if Path(named).name != path.name:
        return False
    try:
        return Path(named).samefile(path)
    except (OSError, ValueError):
        return False


def handed_over(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The sockets that systemd hands over (`LISTEN_FDS`, `LISTEN_PID`); the variables are taken out of `environment`.

    Raises:
        SocketError: One of them is no listening Unix stream socket.
    """
    pid, fds = environment.pop("LISTEN_PID", None), environment.pop("LISTEN_FDS", None)
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or fds is None or not fds.isdecimal():
        return []
    listeners = []
    with ExitStack() as refused:
        for descriptor in range(FIRST_HANDED_OVER, FIRST_HANDED_OVER + int(fds)):
            try:
                os.set_inheritable(descriptor, False)
                listener = refused.enter_context(socket.socket(fileno=descriptor))
                listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            except OSError as error:
                raise SocketError(f"file descriptor {descriptor} was handed over, but is no socket: {error}") from error
            if (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_STREAM) or not listening:
                raise SocketError(f"file descriptor {descriptor} was handed over, but is no listening Unix socket")
            listener.setblocking(False)
            listeners.append(listener)
        refused.pop_all()
    return listeners


def peer_uid(peer: socket.socket) -> int:
    """The peer's user id by SO_PEERCRED: who opened the connection, not who holds it now."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


class HangupWatch:
    """Detects that a peer has closed a connection that is not being read: after a half-close, or while paused.

    The event loop polls only sockets that it reads from or writes to. An epoll set that asks for no event still
    reports EPOLLHUP, which a Unix socket has when its peer has closed both directions.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def fileno(self) -> int:
        """The epoll descriptor, readable when `dispatch` has something to do."""
        return self._epoll.fileno()

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Calls `callback` once when the peer of `descriptor` has closed."""
        if self._epoll.closed:
            return
        if descriptor in self._callbacks:
            self._epoll.modify(descriptor, 0)
        else:
            self._epoll.register(descriptor, 0)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Stops watching, unless the descriptor's number belongs to another connection by now."""
        if self._callbacks.get(descriptor) == callback:
            del self._callbacks[descriptor]
            with suppress(OSError):  # already closed, which took it out of the set
                self._epoll.unregister(descriptor)

    def dispatch(self) -> None:
        """Calls the callbacks of the peers that have closed."""
        for descriptor, _ in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                self.forget(descriptor, callback)
                callback()

    def close(self) -> None:
        """Closes the epoll set. Connections that end later still `forget`."""
        self._callbacks.clear()
        self._epoll.close()
