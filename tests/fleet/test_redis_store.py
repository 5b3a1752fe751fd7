"""`RedisStore` and `quota.lua`, in a real `redis-server`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from beluna_gateway.quota import decision
from beluna_gateway.quota.decision import DAY, MINUTE, SECOND, Answer, ScopeState
from beluna_gateway.quota.limits import Limits, Scope
from beluna_gateway.quota.opening import LONGEST_LEASE
from beluna_gateway.quota.redis_store import RedisStore
from beluna_gateway.quota.store import Command, End, Renew, Reply, StoreAway, Take

from .server import RedisServer, needs_redis, redis_server

pytestmark = needs_redis

NOW = 1_764_184_450_000_000
LEASE = 15 * SECOND
ALL = Scope("b", None, Limits(places=2, day=1000))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def emptied(server: RedisServer) -> None:
    server.call("FLUSHALL")


async def no_password(refused: str | None) -> str | None:
    return None


@asynccontextmanager
async def store(
    server: RedisServer, daemon: str = "d", time: Callable[[], int] | None = None, **options: Any
) -> AsyncIterator[RedisStore]:
    made = RedisStore(
        options.pop("url", server.url),
        options.pop("secret", no_password),
        options.pop("tls", None),
        server.folder,
        options.pop("namespace", "n"),
        options.pop("lease", LEASE),
        daemon,
        time,
    )
    made.place_is_free = lambda backend_id: None
    made.emptied = lambda: None
    try:
        yield made
    finally:
        await made.close()


async def take(one: RedisStore, *ids: str, scope: Scope = ALL) -> Answer:
    [answer] = await one.exchange([Take((scope,), ids, known=False)])
    assert isinstance(answer, Answer)
    return answer


def end(number: int, micros: int = 0, *ids: str, scope: Scope = ALL) -> End:
    return End((scope,), ids, number, micros, 0, 0)


# --- the same decisions as `decision.py` ---------------------------------------------------------------------


class Oracle:
    """What `decision` says to the same commands."""

    def __init__(self) -> None:
        self.states: dict[Scope, ScopeState] = {}
        self.counted: dict[tuple[Scope, ...], int] = {}

    def do(self, command: Command, now: int) -> Reply:
        states = [self.states.setdefault(scope, ScopeState()) for scope in command.scopes]
        limits = [scope.limits for scope in command.scopes]
        match command:
            case Take(_, ids, known):
                return decision.take(states, limits, ids, now, LEASE, known=known)
            case Renew(_, ids):
                return decision.renew(states, limits, ids, now, LEASE)
            case End(scopes, ids, number, micros, estimated, tokens):
                if number <= self.counted.get(scopes, 0):
                    micros = estimated = tokens = 0
                else:
                    self.counted[scopes] = number
                return decision.end(states, limits, ids, now, micros=micros, estimated=estimated, tokens=tokens)


_limit = st.none() | st.integers(1, 6)
_limits = st.builds(
    Limits,
    places=_limit,
    rate=_limit | st.integers(1, 3000),
    tokens=st.none() | st.integers(1, 5000),
    day=st.none() | st.integers(1, 3000),
    month=st.none() | st.integers(1, 9000),
)
_ids = st.lists(st.integers(0, 12).map(str), max_size=6, unique=True).map(tuple)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, Command]]:
    """Commands of one backend, with the time that passes before each."""
    everyone = Scope("b", None, draw(_limits))
    client = Scope("b", "notes", draw(_limits))
    which = st.sampled_from([(everyone,), (client, everyone), (client,)])
    command = st.one_of(
        st.builds(Take, which, _ids, st.booleans()),
        st.builds(Take, which, _ids, st.just(False)),
        st.builds(Renew, which, _ids),
        st.builds(
            End,
            which,
            _ids,
            st.integers(1, 30),
            st.integers(0, 900),
            st.integers(0, 50),
            st.integers(0, 3000),
        ),
    )
    odd = st.sampled_from([0, MINUTE, DAY, 40 * DAY, -SECOND // 2, -MINUTE, -DAY])  # a clock may be set back, too
    gap = st.one_of(st.integers(0, SECOND), st.integers(0, 20 * SECOND), odd)
    return draw(st.lists(st.tuples(gap, command), min_size=1, max_size=25))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_the_script_decides_as_the_reference_does(server: RedisServer, history):
    """Any history of commands at any times gives the same answers in Redis and in Python."""
    server.call("FLUSHALL")
    oracle = Oracle()
    now = NOW

    async def play() -> None:
        nonlocal now
        async with store(server, time=lambda: now) as one:
            for gap, command in history:
                now += gap
                [reply] = await one.exchange([command])
                assert reply == oracle.do(command, now), (command, now)

    asyncio.run(play())


# --- the store -----------------------------------------------------------------------------------------------


async def test_daemons_share_places_and_money(server: RedisServer):
    """What one takes and spends the other one sees; another namespace does not."""
    async with store(server, "one") as one, store(server, "two") as two, store(server, namespace="m") as other:
        assert (await take(one, "1.1")).granted == 1
        assert (await take(two, "2.1", "2.2")).granted == 1
        await one.exchange([end(1, 1000, "1.1")])
        assert (await take(two, "2.2")).reason == "day"
        assert (await take(other, "1.1", "1.2")).granted == 2


async def test_money_counts_after_the_limits_have_changed(server: RedisServer):
    """The same scope of the same daemon, by another limit: its numbers begin anew, and nothing seems a repeat."""
    async with store(server) as one:
        for limit in (1000, 2000):
            scope = Scope("b", None, Limits(day=limit))
            for number in (1, 2, 2):
                await one.exchange([end(number, 7, scope=scope)])

    assert server.call("HGET", "n:{b}:all:state", "day_micros") == "28"


async def test_the_server_forgets_leases_by_itself(server: RedisServer):
    """A daemon that is killed leaves nothing: its keys expire, even if nobody asks."""
    async with store(server, lease=100_000) as one:
        await take(one, "a")
        assert server.call("ZCARD", "n:{b}:all:leases") == 1
        await asyncio.sleep(0.15)
        assert server.call("EXISTS", "n:{b}:all:leases") == 0


async def test_scripts_that_were_flushed_are_loaded_again(server: RedisServer):
    """In the same exchange, in the same order."""
    async with store(server) as one:
        await take(one, "a")
        server.call("SCRIPT", "FLUSH")
        _, second = await one.exchange([end(1, 7, "a"), Take((ALL,), ("b", "c"), known=True)])
        assert isinstance(second, Answer)
        assert second.granted == 2
        assert second.uses[0].day_micros == 7


async def test_a_connection_that_was_cut_is_made_anew(server: RedisServer):
    """Nobody notices: what was sent is sent again, and counts once."""
    async with store(server) as one:
        await take(one, "a")
        server.call("CLIENT", "KILL", "TYPE", "normal")
        [[use]] = await one.exchange([end(1, 7, "a")])  # type: ignore[misc]
        assert use.day_micros == 7


async def test_who_waits_for_a_place_is_told_when_there_is_one(server: RedisServer):
    """The one that has waited longest, and no other one."""
    async with store(server, "one") as one, store(server, "two") as two, store(server, "three") as three:
        told = asyncio.Queue[str]()
        two.place_is_free = lambda backend_id: told.put_nowait(f"two {backend_id}")
        three.place_is_free = lambda backend_id: told.put_nowait(f"three {backend_id}")
        await take(one, "a", "b")
        for each in (two, three):
            assert (await take(each, f"{each}.c")).reason == "places"
        async with asyncio.timeout(10):
            while server.call("PUBSUB", "NUMSUB", "n:wake:two", "n:wake:three") != ["n:wake:two", 1, "n:wake:three", 1]:
                await asyncio.sleep(0.01)
            await one.exchange([end(1, 0, "a")])
            assert await told.get() == "two b"
            await one.exchange([end(2, 0, "b")])
            assert await told.get() == "three b"
        assert told.empty()


async def test_all_are_told_that_the_store_was_emptied(server: RedisServer):
    """Whoever finds a scope missing that it knew: then each tells what it holds."""
    async with store(server, "one") as one, store(server, "two") as two:
        told = asyncio.Event()
        two.emptied = told.set
        await take(one, "a"), await take(two, "b")
        async with asyncio.timeout(10):
            while server.call("PUBSUB", "NUMSUB", "n:wake") != ["n:wake", 2]:
                await asyncio.sleep(0.01)
            server.call("FLUSHALL")
            [answer] = await one.exchange([Take((ALL,), ("c",), known=True)])
            await told.wait()
        assert isinstance(answer, Answer)
        assert answer.reason == "settling"


async def test_a_server_that_is_not_there_is_told(server: RedisServer):
    """With what the operating system said, without waiting long."""
    async with store(server, url="redis://127.0.0.1:1") as one, asyncio.timeout(5):
        with pytest.raises(StoreAway, match=r"127\.0\.0\.1:1"):
            await one.exchange([])


@pytest.mark.parametrize(
    "answer", [b"+OK\r\n", b"*1\r\n" * 10_000, b":" + b"9" * 5000 + b"\r\n", b"$-1\r\n", b"+\xff\r\n"]
)
async def test_a_server_that_answers_nonsense_is_told(server: RedisServer, answer: bytes):
    """As one that is no Redis, and not as a bug of ours."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(answer * 10)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as nonsense:
        port = nonsense.sockets[0].getsockname()[1]
        async with store(server, url=f"redis://127.0.0.1:{port}") as one, asyncio.timeout(5):
            with pytest.raises(StoreAway, match="is of no use"):
                await take(one, "a")


async def test_the_longest_lease_is_one(server: RedisServer):
    """The largest `lease_ms` that a configuration may have is no number that Redis refuses."""
    async with store(server, lease=LONGEST_LEASE) as one:
        assert (await take(one, "a")).granted == 1


async def test_a_key_of_somebody_elses_is_told(server: RedisServer):
    """Redis' own words."""
    server.call("SET", "n:{b}:all:leases", "something")
    async with store(server) as one:
        with pytest.raises(StoreAway, match="WRONGTYPE"):
            await take(one, "a")


async def test_keys_of_a_backend_are_on_one_node_of_a_cluster(server: RedisServer):
    """Whatever its id and its clients' names hold, and no two scopes have the same keys."""
    async with store(server, namespace="n:{x}") as one:
        for name in ("b", "ö {}: \n", "}{", "{", ""):
            scopes = tuple(Scope(name, client, Limits(places=1)) for client in (None, "all", "a:b", "{}", ""))
            keys = [
                key
                for command in (Take(scopes, ("a",), known=False), Renew(scopes, ("a",)), End(scopes, (), 1, 0, 0, 0))
                for key in _keys_of(one._packed(command))
            ]
            assert len(set(keys)) == 3 * len(scopes) + 1
            assert len({key_slot(key.encode()) for key in keys}) == 1


def _keys_of(packed: tuple[Any, ...]) -> tuple[str, ...]:
    return packed[3 : 3 + packed[2]]


async def test_an_odd_backend_id_works(server: RedisServer, tmp_path: Path):
    """Redis takes it as one key."""
    odd = Scope("ö {}: \n", "}{", Limits(places=1))
    async with store(server) as one:
        assert (await take(one, "a", "b", scope=odd)).granted == 1


async def test_a_message_that_is_no_text_does_not_end_listening(server: RedisServer):
    """Whoever may publish in the channel cannot make a daemon deaf: it listens anew."""
    async with store(server) as one:
        heard = asyncio.Event()
        one.place_is_free = lambda backend_id: heard.set()
        await take(one, "a")
        async with asyncio.timeout(20):
            while not server.call("PUBLISH", "n:wake:d", b"\xff"):
                await asyncio.sleep(0.01)
            while not heard.is_set():
                server.call("PUBLISH", "n:wake:d", "b")
                await asyncio.sleep(0.05)


async def test_a_replica_is_told_as_one(server: RedisServer):
    """A real one, which takes no writes."""
    server.call("REPLICAOF", "127.0.0.1", 1)
    try:
        async with store(server) as one:
            with pytest.raises(StoreAway, match=r"it is a replica \(.*\): give the address of the primary"):
                await take(one, "a")
    finally:
        server.call("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("MOVED 3999 10.0.0.7:6381", "redirects to 10.0.0.7:6381, which is not followed: give the address of a single"),
        ("ASK 3999 10.0.0.7:6381", "redirects to 10.0.0.7:6381, which is not followed: give the address of a single"),
        ("CLUSTERDOWN Hash slot not served", "a cluster that cannot serve these keys now (Hash slot not served)"),
        ("TRYAGAIN Multiple keys request", "a cluster that cannot serve these keys now (Multiple keys request)"),
        ("READONLY You can't write", "it is a replica (You can't write): give the address of the primary"),
        ("MASTERDOWN Link with MASTER is down", "it is a replica (Link with MASTER is down): give the address of the"),
        ("ERR unknown command 'EVALSHA', with args", "it is a Sentinel, or no Redis or Valkey server (unknown command"),
        ("WRONGPASS invalid username-password pair", "invalid username-password pair"),
    ],
)
async def test_what_a_server_refuses_is_told_and_not_tried_again(server: RedisServer, line: str, told: str):
    """One connection, whatever it says: the owner of the store asks again after a second. With what to do, if known."""
    connections = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with closing(writer):
            while words := (await reader.readline())[1:]:
                for _ in range(int(words)):
                    await reader.readexactly(int((await reader.readline())[1:]) + 2)
                writer.write(f"-{line}\r\n".encode())

    async with await asyncio.start_server(refuse, "127.0.0.1") as fake:
        url = f"redis://127.0.0.1:{fake.sockets[0].getsockname()[1]}"
        async with store(server, url=url) as one:
            with pytest.raises(StoreAway, match=re.escape(told)):
                await take(one, "a")

    assert connections == 1


async def test_another_password_is_asked_for_where_one_was_refused(server: RedisServer):
    """As it is rotated: with the one that does not do any more, so that whoever keeps it asks anew."""
    asked: list[str | None] = []

    async def secret(refused: str | None) -> str | None:
        asked.append(refused)
        return "first" if refused is None else "second"

    rights = ("on", "resetkeys", "~*", "&*", "+@all")
    server.call("ACL", "SETUSER", "rotated", *rights, ">first")
    async with store(server, secret=secret, url=f"redis://rotated@127.0.0.1:{server.port}") as one:
        await take(one, "a")
        server.call("ACL", "SETUSER", "rotated", *rights, "resetpass", ">second")
        server.call("CLIENT", "KILL", "USER", "rotated")
        with pytest.raises(StoreAway, match="invalid username-password"):
            await take(one, "b")
        assert (await take(one, "b")).granted == 1

    assert "first" in asked
