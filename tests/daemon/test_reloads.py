"""`Reloads`: one after the other, each counted, each told to systemd. With a reload that is a function of the test."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from beluna_gateway.daemon.reloads import MAX_ERROR_CHARACTERS, ReloadError, Reloads
from beluna_gateway.daemon.systemd import Notifier
from beluna_gateway.telemetry.service import ServiceCounters


class Told:
    """What systemd was told: a list of assignments for each message."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def messages(self) -> list[list[str]]:
        """Those since the last call."""
        found = []
        try:
            while True:
                found.append(self._channel.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return found


@contextmanager
def manager(folder: Path) -> Iterator[tuple[Told, Notifier]]:
    """systemd's end of `NOTIFY_SOCKET`, and a notifier that sends there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.bind(str(folder / "notify"))
        yield Told(channel), Notifier({"NOTIFY_SOCKET": str(folder / "notify")})


async def until_done(reloads: Reloads) -> None:
    """Waits for the end of those that were asked for."""
    while reloads.status()["running"]:
        await asyncio.sleep(0)


async def test_systemd_is_told_of_the_beginning_and_of_the_end(tmp_path: Path) -> None:
    """`RELOADING=1` with the time on CLOCK_MONOTONIC comes before the file is read, `READY=1` when it is in effect."""
    order: list[str] = []
    with manager(tmp_path) as (told, notifier):

        async def reload() -> None:
            order.extend(message[0] for message in told.messages())
            order.append("reload")

        reloads = Reloads(reload, ServiceCounters(), notifier)
        reloads.begin()
        await until_done(reloads)
        order.extend(message[0] for message in told.messages())

    assert order == ["RELOADING=1", "reload", "READY=1"]
    assert reloads.status() == {"ok": 1, "failed": 0, "running": False, "last_error": None}


async def test_the_time_is_that_of_the_beginning(tmp_path: Path) -> None:
    """`MONOTONIC_USEC` lies between the call and the end, in microseconds."""
    with manager(tmp_path) as (told, notifier):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        ((first, second, *_),) = told.messages()

    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= after


async def test_systemd_is_told_ready_after_a_failure_too(tmp_path: Path) -> None:
    """The daemon serves on as before: `READY=1`, and the status line says that the reload failed."""

    async def reload() -> None:
        raise ReloadError(["ai_gateway: missing, but required"])

    with manager(tmp_path) as (told, notifier):
        reloads = Reloads(reload, ServiceCounters(), notifier)
        reloads.begin()
        await until_done(reloads)
        begin, end = told.messages()

    assert begin[0] == "RELOADING=1"
    assert end[0] == "READY=1"
    assert "failed" in end[1]


async def test_what_is_asked_for_during_a_reload_is_done_once_after_it() -> None:
    """However often it was asked: the file may have changed since it was read."""
    gate, begun = asyncio.Event(), 0

    async def reload() -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    reloads = Reloads(reload, ServiceCounters(), Notifier({}))
    reloads.begin()
    await asyncio.sleep(0.01)
    assert (begun, reloads.status()["running"]) == (1, True)
    for _ in range(5):
        reloads.begin()
    gate.set()
    await until_done(reloads)

    assert (begun, reloads.status()["ok"]) == (2, 2)


async def test_every_mistake_is_logged_and_the_last_outcome_kept() -> None:
    """A line for each mistake, one that says what to do; `last_error` is bounded, and gone with the next success."""
    mistakes = [["a: unknown key", "b: missing, but required"], ["x" * 5000], []]

    async def reload() -> None:
        if found := mistakes.pop(0):
            raise ReloadError(found)

    reloads = Reloads(reload, ServiceCounters(), Notifier({}))
    with structlog.testing.capture_logs() as logged:
        seen = []
        for _ in range(3):
            reloads.begin()
            await until_done(reloads)
            seen.append(reloads.last_error)

    assert [line["mistake"] for line in logged if "mistake" in line][:2] == [
        "a: unknown key",
        "b: missing, but required",
    ]
    assert sum("unchanged" in line["event"] for line in logged) == 2
    assert seen == ["a: unknown key; b: missing, but required", "x" * MAX_ERROR_CHARACTERS, None]
    assert reloads.status() == {"ok": 1, "failed": 2, "running": False, "last_error": None}


async def test_a_bug_in_a_reload_ends_nothing() -> None:
    """It is counted and logged, and the next reload works."""
    outcomes: list[Exception | None] = [ValueError("a bug"), None]

    async def reload() -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error

    reloads = Reloads(reload, ServiceCounters(), Notifier({}))
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            reloads.begin()
            await until_done(reloads)

    assert any("bug" in line["event"] for line in logged)
    assert reloads.status() == {"ok": 1, "failed": 1, "running": False, "last_error": None}


async def test_closing_abandons_a_reload(tmp_path: Path) -> None:
    """At a shutdown systemd is told `READY=1` no more, and a file that does not answer is not waited for."""

    async def reload() -> None:
        await asyncio.get_running_loop().create_future()

    with manager(tmp_path) as (told, notifier):
        reloads = Reloads(reload, ServiceCounters(), notifier)
        reloads.begin()
        await asyncio.sleep(0.01)
        await reloads.close()
        await reloads.close()

        assert [message[0] for message in told.messages()] == ["RELOADING=1"]
    assert not reloads.status()["running"]
