"""What holds for every test: it reaches loopback only, and leaves nothing behind.

Autouse fixtures, all of them cheap:

`nothing_left_open`: no descriptor and no child process is there that was not there before.
`nothing_left_running`: no asyncio task either (asynchronous tests only).
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has its background jobs ignore Ctrl-C, and the programs that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TESTS = Path(__file__).parent
SETTLE_SECONDS = 3.0
"""How long what is being closed may take; nothing waits that long where all is well."""


THAT_WAIT = ("live", "daemon", "commands", "dashboards", "processes")
"""Folders whose tests start programs and wait for them."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collecting makes millions of objects that stay: a collector would look through them again and again, then and
    during the tests. What it is to find is what the tests leave."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes run the tests, those that wait come first: what computes fills the cores at the end, and
    no process is left with a long file alone. A file stays in one process, and in its order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folders = {name: place for place, name in enumerate(THAT_WAIT)}
        items.sort(key=lambda item: folders.get(item.path.relative_to(_TESTS).parts[0], len(folders)))


def _loopback_only(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple):
        host = str(address[0]).partition("%")[0]
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise AssertionError(f"a test may reach loopback only, not {host}")


sys.addaudithook(_loopback_only)
# Without a deadline for each example: on a busy machine any of them may take long. In CI `default` is Hypothesis' own
# profile for it, which tries the same examples each time.
settings.register_profile("suite", settings.default, deadline=None)
settings.load_profile("suite")
# For tests that need more examples than a run of the suite has time for: `pytest --hypothesis-profile=heavy …`.
settings.register_profile("heavy", max_examples=2000, deadline=None)
uvloop.new_event_loop().close()  # its first loop opens two descriptors, for the whole process


@pytest.fixture(autouse=True)
def nothing_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a descriptor or a child process behind."""
    descriptors, children = _descriptors(), _children()
    yield
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := (_descriptors() - descriptors) | (_children() - children):
        gc.collect()
        assert time.monotonic() < deadline, f"left behind: {sorted(left)}"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest, nothing_left_open: None) -> None:
    """No asynchronous test leaves a task behind in its loop."""
    marker = request.node.get_closest_marker("asyncio")
    if marker is not None:
        scope = marker.kwargs.get("loop_scope") or "function"
        if scope in _SETTLED:
            request.getfixturevalue(_SETTLED[scope])


_SETTLED = {"function": "_settled_in_own_loop", "module": "_settled_in_module_loop"}


@pytest_asyncio.fixture(loop_scope="function")
async def _settled_in_own_loop() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    await _settle(before)


@pytest_asyncio.fixture(loop_scope="module")
async def _settled_in_module_loop() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    await _settle(before)


async def _settle(before: set[asyncio.Task[Any]]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        assert time.monotonic() < deadline, f"left running: {left}"
        await asyncio.sleep(0.01)


def _descriptors() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if int(entry.name) > 2:  # pytest exchanges those when it captures
                found.add(f"descriptor {entry.name}: {entry.readlink()}")
        except FileNotFoundError:  # the one that lists the folder
            continue
    return found


def _children() -> set[str]:
    children = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            children |= {f"child {pid}" for pid in (task / "children").read_text().split()}
    return children - {f"child {os.getpid()}"}
