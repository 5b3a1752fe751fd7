"""The socket file: made, checked and removed; sockets handed over by systemd; who is at the other end; hang-ups."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

FIRST_HANDED_OVER = 3  # sd_listen_fds(3)
BACKLOG = 1024


class SocketError(Exception):
    """The socket cannot be made (exit status 73); the message says why and what to do."""


@contextmanager
def listening_socket(path: Path, mode: int) -> Iterator[socket.socket]:
    """A listening Unix socket at `path`, with exactly `mode`; its file is removed on leaving if it is still ours.

    A socket file that nobody answers on is replaced. Anything else at `path` is left untouched.

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
    """One daemon at a time looks at the file and replaces it; two that start at once must not both find it stale."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(there.st_mode):
        kinds = {stat.S_IFREG: "a regular file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link"}
        found = kinds.get(stat.S_IFMT(there.st_mode), "something that is no socket")
        raise SocketError(f"cannot listen on {path}: {found} is there; move it away or change socket_path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(os.fspath(path))
    if result == errno.ECONNREFUSED:
        path.unlink()
    elif result in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise SocketError(f"cannot listen on {path}: another daemon answers there; stop it or change socket_path")
    elif result != errno.ENOENT:
        raise SocketError(f"cannot listen on {path}: there is a socket, and asking it failed: {os.strerror(result)}")


def _bind(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must be right from the file's first moment on, so it cannot be set afterwards.
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        if "too long" in str(error):
            raise SocketError(f"cannot listen on {path}: a Unix socket's path may have 107 bytes") from error
        raise
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


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
    """The user at the other end, by SO_PEERCRED: who opened the connection, not who holds it now."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


class HangupWatch:
    """Sees a peer's close where nobody reads from it: after a half-close, and while reading is paused.

    The event loop looks only at sockets that it reads from or writes to. An epoll set that asks for no event at all is
    still told of EPOLLHUP, which a Unix socket has when its peer has closed both directions.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def fileno(self) -> int:
        """For the event loop: readable when `dispatch` has something to do."""
        return self._epoll.fileno()

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """From now on `callback` is called, once, when the peer of `descriptor` has closed."""
        if descriptor in self._callbacks:
            self._epoll.modify(descriptor, 0)
        else:
            self._epoll.register(descriptor, 0)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Stops watching, if `callback` is still the one (the number may belong to another connection by now)."""
        if self._callbacks.get(descriptor) == callback:
            del self._callbacks[descriptor]
            with suppress(OSError):  # already closed, which took it out of the set
                self._epoll.unregister(descriptor)

    def dispatch(self) -> None:
        """Calls what is due."""
        for descriptor, _ in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                self.forget(descriptor, callback)
                callback()

    def close(self) -> None:
        """Ends the epoll set."""
        self._epoll.close()
