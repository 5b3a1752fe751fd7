"""`SqliteStore`: shared limits in a file."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from beluna_gateway.quota.decision import DAY, Answer
from beluna_gateway.quota.limits import Limits, Scope
from beluna_gateway.quota.owner import QuotaOwner
from beluna_gateway.quota.sqlite_store import SqliteStore
from beluna_gateway.quota.store import End, Renew, StoreAway, Take

SCOPES = (Scope("b", None, Limits(places=2, day=1000)),)
NOW = 1_764_184_450_000_000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def store(folder: Path, daemon: str = "d", namespace: str = "n", clock: Clock | None = None) -> SqliteStore:
    return SqliteStore(folder / "quota.db", namespace, 15_000_000, 5.0, daemon, clock or Clock())


def end(number: int, micros: int, *ids: str) -> End:
    return End(SCOPES, ids, number, micros, 0, 0)


async def take(one: SqliteStore, *ids: str) -> Answer:
    [answer] = await one.exchange([Take(SCOPES, ids, known=False)])
    assert isinstance(answer, Answer)
    return answer


async def test_two_daemons_share_places_and_money(tmp_path: Path):
    """What one takes and spends the other one sees; another namespace does not."""
    one, two, other = store(tmp_path, "one"), store(tmp_path, "two"), store(tmp_path, "one", "elsewhere")
    try:
        assert (await take(one, "1.1")).granted == 1
        assert (await take(two, "2.1", "2.2")).granted == 1
        await one.exchange([end(1, 1000, "1.1")])
        assert (await take(two, "2.2")).reason == "day"
        assert (await take(other, "1.1", "1.2")).granted == 2
    finally:
        for each in (one, two, other):
            await each.close()


async def test_money_survives_the_daemon(tmp_path: Path):
    """A limit per day holds across a restart, and ends with the day."""
    clock = Clock()
    before = store(tmp_path, "before", clock=clock)
    await before.exchange([end(1, 1000)])
    await before.close()
    after = store(tmp_path, "after", clock=clock)
    try:
        assert (await take(after, "x")).reason == "day"
        clock.now += DAY
        assert (await take(after, "x")).granted == 1
    finally:
        await after.close()


async def test_what_is_sent_twice_counts_once(tmp_path: Path):
    """By daemon and number."""
    one, two = store(tmp_path, "one"), store(tmp_path, "two")
    try:
        for each, number in ((one, 1), (one, 1), (two, 1), (one, 2)):
            replies = await each.exchange([end(number, 10)])
        [[use]] = replies  # type: ignore[misc]
        assert use.day_micros == 30
    finally:
        await one.close()
        await two.close()


async def test_money_counts_after_the_limits_have_changed(tmp_path: Path):
    """A reload gives the same daemon another limit for the same scope: what it tells then is not taken for what it has
    told before.
    """
    quota = QuotaOwner(store(tmp_path), "d", lease_seconds=15, timeout_seconds=5, refuses=True)
    for limit in (1000, 2000, 1000):
        queue = quota.queue([Scope("b", None, Limits(day=limit))])
        queue.settle(7, 0, 0)
        async with asyncio.timeout(20):
            while not queue.is_idle:
                await asyncio.sleep(0.001)
    await quota.close()

    assert queue.uses[0].day_micros == 3 * 7


async def test_leases_are_renewed(tmp_path: Path):
    """Renewing says what is used, too."""
    clock = Clock()
    one = store(tmp_path, clock=clock)
    try:
        await take(one, "a")
        clock.now += 14_000_000
        await one.exchange([Renew(SCOPES, ("a",))])
        clock.now += 14_000_000
        [[use]] = await one.exchange([Renew(SCOPES, ())])  # type: ignore[misc]
        assert use.places == 1
    finally:
        await one.close()


async def test_a_file_that_is_no_database_is_told(tmp_path: Path):
    """By its path; it is left as it is."""
    (tmp_path / "quota.db").write_text("something of somebody's" * 100)
    one = store(tmp_path)
    try:
        with pytest.raises(StoreAway, match=r"quota\.db: file is not a database"):
            await one.exchange([])
    finally:
        await one.close()
    assert (tmp_path / "quota.db").read_text().startswith("something")


@pytest.mark.parametrize("state", ["{}", "[]", "5", '{"leases": 7}', '{"colour": 1}', "[" * 100_000, None, b"\xff"])
async def test_what_others_have_written_is_told(tmp_path: Path, state: object):
    """A state that is none of ours is a store that cannot be used, or one in which nothing is used."""
    one = store(tmp_path)
    try:
        await one.exchange([Renew(SCOPES, ())])
        with closing(sqlite3.connect(tmp_path / "quota.db")) as file, file:
            file.execute("UPDATE scope SET state = ?", (state,))
        if state == "{}":
            assert (await take(one, "a")).granted == 1
            return
        with pytest.raises(StoreAway, match=r"quota\.db: what it holds is of no use"):
            await take(one, "a")
    finally:
        await one.close()


async def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path):
    """Otherwise a daemon that runs would keep count in the deleted file, and one that starts in the new one."""
    running, told = store(tmp_path, "running"), []
    running.emptied = lambda: told.append("emptied")
    started = store(tmp_path, "started")
    try:
        await take(running, "a")
        for file in tmp_path.glob("quota.db*"):
            file.unlink()
        assert (await take(started, "b", "c")).granted == 2
        assert told == []
        assert (await take(running, "d")).reason == "places"
        assert told == ["emptied"]
    finally:
        await running.close()
        await started.close()


async def test_many_at_once_never_hold_more_than_there_is(tmp_path: Path):
    """Four stores of one file, side by side."""
    stores = [store(tmp_path, f"d{number}") for number in range(4)]
    try:
        answers = await asyncio.gather(*(take(each, f"{n}.1", f"{n}.2") for n, each in enumerate(stores)))
        assert sum(answer.granted for answer in answers) == 2
    finally:
        for each in stores:
            await each.close()


@pytest.mark.parametrize(("name", "found"), [("quota.db", "database is locked"), ("no/quota.db", "unable to open")])
async def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, name: str, found: str):
    """That somebody has locked it for longer than a daemon waits, or that its folder is missing."""
    one = SqliteStore(tmp_path / name, "n", 15_000_000, 0.05, "d")
    with closing(sqlite3.connect(tmp_path / "quota.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        try:
            with pytest.raises(StoreAway, match=re.escape(f"{tmp_path / name}: {found}")):
                await take(one, "a")
        finally:
            await one.close()


HANGS = """
import asyncio, sys, time
from pathlib import Path
from beluna_gateway.quota import owner
from beluna_gateway.quota.limits import Limits, Scope
from beluna_gateway.quota.owner import QuotaOwner
from beluna_gateway.quota.sqlite_store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), "n", 15_000_000, 0.05, "d", lambda: time.sleep(60))
    quota = owner.QuotaOwner(store, "d", lease_seconds=15, timeout_seconds=0.05, refuses=True)
    try:
        await quota.queue([Scope("b", None, Limits(places=1))]).acquire()
    except Exception as error:
        print(error)
    await quota.close()

owner.CLOSE_SECONDS = 0.05
asyncio.run(main())
"""


def test_a_disk_that_hangs_does_not_hold_up_the_end(tmp_path: Path):
    """Requests are refused after `timeout_ms`, and the process ends although its thread is still in the file."""
    ended = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path / "quota.db")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert "no answer within 50 ms" in ended.stdout
    assert "the store of the shared limits hangs" in ended.stdout + ended.stderr
