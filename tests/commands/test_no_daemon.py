"""Why nobody answers at a socket: the missing permission is named, with what to do."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway import cli
from beluna_gateway.client import DaemonGone
from beluna_gateway.commands import no_daemon, outcome

NOBODY = 65534
"""Its primary group is `nogroup`, and it is in no other."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT CHECKED: only root can become another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may enter; pytest's own is for its owner only."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def said_to_nobody(path: Path) -> str:
    """What the user nobody is told who wants to connect to `path`; in a process of its own, which only nobody owns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(os.fspath(path))
                    said = "connected"
                except OSError as error:
                    said = no_daemon.why_not(path, error)
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def listening(path: Path, mode: int, group: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    path.chmod(mode)
    os.chown(path, -1, group)
    return listener


@needs_root
def test_the_group_that_is_missing_is_named(folder: Path):
    """Whoever is not in the socket's group is told how to join it, and not to start a second daemon."""
    path = folder / "beluna.sock"
    with listening(path, 0o660, 0):
        said = said_to_nobody(path)

    assert said == (
        f"permission denied: you (nobody) are not in the group root, which {path} is for (mode 0660); to join it: "
        "sudo usermod --append --groups root nobody, then log in again"
    )


@needs_root
def test_a_group_that_was_joined_later(folder: Path):
    """A member by the system's tables whose process has not got the group has to log in again."""
    path = folder / "beluna.sock"
    with listening(path, 0o060, NOBODY):
        os.chown(path, NOBODY, -1)  # the owner's part of the mode counts, not the group's: refused as without the group
        said = said_to_nobody(path)

    assert said == (
        f"permission denied: {path} is for the group nogroup, of which you (nobody) became a member after you logged "
        "in; log in again"
    )


@needs_root
def test_a_socket_for_its_owner_only(folder: Path):
    """No group is promised to help where the mode shuts all groups out."""
    path = folder / "beluna.sock"
    with listening(path, 0o600, 0):
        said = said_to_nobody(path)

    assert said == (
        f"permission denied: {path} has the mode 0600, so only its owner root may connect (server.socket_mode)"
    )


@needs_root
def test_a_folder_that_may_not_be_entered(folder: Path):
    """The outermost one is named."""
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a").chmod(0o700)

    said = said_to_nobody(folder / "a" / "b" / "beluna.sock")

    assert said == (
        f"permission denied: you (nobody) may not enter {folder}/a, where the daemon's socket beluna.sock is"
    )


def test_where_nobody_listens_one_is_started():
    """By hand, or by systemd where systemd makes the socket."""
    nobody = ConnectionRefusedError(111, "Connection refused")

    by_hand = no_daemon.why_not(Path("/home/me/beluna.sock"), nobody)
    assert by_hand == "no daemon answers at /home/me/beluna.sock (Connection refused); start one: beluna-gateway serve"
    assert "systemctl start" in no_daemon.why_not(Path("/run/beluna-gateway.sock"), nobody)


def test_a_daemon_that_goes_without_an_answer_is_not_to_be_started():
    """One that cannot start, but for which systemd listens: its log is named."""
    said = no_daemon.why_not(Path("/run/beluna-gateway.sock"), DaemonGone("the daemon closed the connection"))

    assert said.startswith("the daemon closed the connection (/run/beluna-gateway.sock); its log says why")
    assert "start one" not in said


@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_daemon_that_hangs(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Status 69 after a while, as where nobody listens, and why."""
    monkeypatch.setattr(no_daemon, "ANSWER_SECONDS", 0.1)
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")  # which `main` would leave behind
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hangs.sock"))
        listener.listen()
        assert cli.main([command, "--socket", str(tmp_path / "hangs.sock")]) == outcome.UNAVAILABLE

    out, err = capsys.readouterr()
    assert out == ""
    assert "the daemon has not answered for 0.1 s" in err


@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_daemon_of_another_kind(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """What it answers is not taken for a status."""
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")  # which `main` would leave behind
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "other.sock"))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b'{"type":"status"}\n')
                while connection.recv(4096):
                    pass

        answering = threading.Thread(target=serve)
        answering.start()
        status = cli.main([command, "--socket", str(tmp_path / "other.sock")])
        answering.join()

    assert status == outcome.UNAVAILABLE
    assert "who answers there is no beluna-gateway" in capsys.readouterr().err
