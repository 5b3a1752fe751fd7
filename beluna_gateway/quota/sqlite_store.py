"""Shared limits in a file, for the daemons of one host: spend survives a restart.

One thread does all of it, so that a slow disk never blocks the event loop, nor one that hangs the end of the process;
each exchange is one transaction.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from . import decision
from .decision import ScopeState
from .limits import Limits, Scope
from .store import NONSENSE, Command, End, QuotaStore, Renew, Reply, StoreAway, Take

_TABLES = """
CREATE TABLE IF NOT EXISTS scope (backend TEXT, client TEXT, state TEXT, PRIMARY KEY (backend, client));
CREATE TABLE IF NOT EXISTS counted (daemon TEXT, scopes TEXT, number INTEGER, at INTEGER, PRIMARY KEY (daemon, scopes));
"""
KEEP_COUNTED = 7 * decision.DAY
"""For so long a daemon may send what it has sent before, without its being counted twice."""


class SqliteStore(QuotaStore):
    """See `QuotaStore`.

    Args:
        path: The file; made where it is missing.
        namespace: Of the keys.
        lease: How long a lease lasts, in microseconds.
        timeout: How long another daemon may hold the file, in seconds.
        daemon: This daemon, by a name that no other one has.
        now: Microseconds since 1970. All daemons are on one host, so its clock is the store's.
    """

    kind = "sqlite"
    setting = "shared.sqlite"
    poll_seconds = 0.1  # nobody tells another process that a place is free

    def __init__(
        self,
        path: Path,
        namespace: str,
        lease: int,
        timeout: float,
        daemon: str,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._path = path
        self._namespace = namespace
        self._lease = lease
        self._timeout = timeout
        self._daemon = daemon
        self._now = now
        self._thread: _Thread | None = None
        self._file: sqlite3.Connection | None = None
        self._inode = (0, 0)
        self._was_replaced = False

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """See `QuotaStore`."""
        if self._thread is None:
            self._thread = _Thread()
        try:
            replies: list[Reply] = await self._thread.run(self._transaction, commands)
        except (sqlite3.Error, OSError) as error:  # the file is no database, or not ours
            raise StoreAway(f"{self._path}: {error}") from error
        except NONSENSE as error:
            why = f"what it holds is of no use ({type(error).__name__}): somebody else has written to it"
            raise StoreAway(f"{self._path}: {why}") from error
        if self._was_replaced:
            self._was_replaced = False
            self.emptied()
        return replies

    async def close(self) -> None:
        """See `QuotaStore`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            closed = thread.run(self._close)
            thread.stop()
            await closed

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            # A power cut may take the last moments, a killed daemon nothing.
            file.execute("PRAGMA synchronous = NORMAL")
            file.executescript(_TABLES)
        except BaseException:
            file.close()
            raise
        return file

    def _inode_now(self) -> tuple[int, int]:
        """Which file has the path; zeros: none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_dev, found.st_ino

    def _transaction(self, commands: Sequence[Command]) -> list[Reply]:
        if self._file is not None and self._inode_now() != self._inode:
            self._close()  # deleted, or put back from a backup: the other daemons keep count in what has this name now
            self._was_replaced = True
        if self._file is None:
            self._file = self._open()
            self._inode = self._inode_now()
        file = self._file
        file.execute("BEGIN IMMEDIATE")
        try:
            now = self._now()
            replies = [self._do(file, command, now) for command in commands]
            file.execute("COMMIT")
        except BaseException:
            if file.in_transaction:
                file.execute("ROLLBACK")
            raise
        return replies

    def _do(self, file: sqlite3.Connection, command: Command, now: int) -> Reply:
        states = [self._load(file, scope) for scope in command.scopes]
        limits = [scope.limits for scope in command.scopes]
        reply = self._decide(file, command, states, limits, now)
        for scope, state in zip(command.scopes, states, strict=True):
            file.execute("INSERT OR REPLACE INTO scope VALUES (?, ?, ?)", (*self._key(scope), json.dumps(state.json())))
        return reply

    def _decide(
        self,
        file: sqlite3.Connection,
        command: Command,
        states: Sequence[ScopeState],
        limits: Sequence[Limits],
        now: int,
    ) -> Reply:
        match command:
            case Take():
                return decision.take(states, limits, command.ids, now, self._lease, known=command.known)
            case Renew():
                return decision.renew(states, limits, command.ids, now, self._lease)
            case End():
                new = self._count(file, command, now)
                return decision.end(
                    states,
                    limits,
                    command.ids,
                    now,
                    micros=command.micros if new else 0,
                    estimated=command.estimated if new else 0,
                    tokens=command.tokens if new else 0,
                )

    def _count(self, file: sqlite3.Connection, command: End, now: int) -> bool:
        """Whether this `End` has not been counted yet; from now on it has.

        Numbers are those of a queue, and one of the same scopes with other limits has its own.
        """
        key = self._daemon, json.dumps([[*self._key(scope), asdict(scope.limits)] for scope in command.scopes])
        with closing(file.execute("SELECT number FROM counted WHERE daemon = ? AND scopes = ?", key)) as found:
            row = found.fetchone()
        if row is not None and row[0] >= command.number:
            return False
        if row is None:
            file.execute("DELETE FROM counted WHERE at < ?", (now - KEEP_COUNTED,))
        file.execute("INSERT OR REPLACE INTO counted VALUES (?, ?, ?, ?)", (*key, command.number, now))
        return True

    def _load(self, file: sqlite3.Connection, scope: Scope) -> ScopeState:
        with closing(
            file.execute("SELECT state FROM scope WHERE backend = ? AND client = ?", self._key(scope))
        ) as found:
            row = found.fetchone()
        return ScopeState() if row is None else ScopeState.from_json(json.loads(row[0]))

    def _key(self, scope: Scope) -> tuple[str, str]:
        client = "" if scope.client is None else f"client {scope.client}"
        return f"{self._namespace}:{scope.backend_id}", client


class _Thread:
    """Runs functions one after another. The end of the process does not wait for it, as it would for an executor's."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="quota", daemon=True).start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """What it returns or raises. One that is cancelled before its turn is passed over."""
        future: Future[Any] = Future()
        self._jobs.put((future, lambda: function(*arguments)))
        return asyncio.wrap_future(future)

    def stop(self) -> None:
        """Ends after what it has been given."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - raised where the outcome is awaited
                future.set_exception(error)
