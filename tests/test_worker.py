"""The thread for large frames leaves nothing behind that only the garbage collector can free."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import closing

import pytest

from beluna_gateway import worker as worker_module
from beluna_gateway.worker import Large, Worker


class Node:
    """Something that is part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def worker() -> Iterator[Worker]:
    with closing(Worker()) as worker:
        yield worker
    assert worker._thread is not None
    worker._thread.join()
    gc.unfreeze()


async def leave_a_cycle(worker: Worker) -> weakref.ref[Node]:
    """A cycle that is set aside with a large value, as a request that fails leaves one."""
    node = weakref.ref(Node())
    assert node() is not None, "the cycle keeps it"
    large = Large(worker, b"[]")
    await large.step(len)
    large.close()
    while worker.alive:
        await asyncio.sleep(0.001)
    return node


async def freed(node: weakref.ref[Node]) -> None:
    async with asyncio.timeout(10):
        while node() is not None:
            await asyncio.sleep(0.005)


async def test_what_was_set_aside_is_freed_once_no_large_frame_comes(worker, monkeypatch):
    """Soon, and without another large frame."""
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.05)
    gc.disable()  # or it could come first
    try:
        await freed(await leave_a_cycle(worker))
    finally:
        gc.enable()


async def test_what_was_set_aside_is_freed_while_large_frames_keep_coming(worker, monkeypatch):
    """Also where there is always one that has not been freed yet."""
    monkeypatch.setattr(worker_module, "THAW_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 60)
    kept = Large(worker, b"[]")
    gc.disable()
    try:
        large = Large(worker, b"[]")
        node = weakref.ref(Node())
        async with asyncio.timeout(10):
            while node() is not None:
                await large.step(lambda value: value)
    finally:
        gc.enable()
        large.close()
        kept.close()
