"""The gateway and a reference model of it, through random histories: requests (inference, embeddings, counts of tokens
and lists of models), cancels, disconnects, half-closes, slow readers, faults of backends, time, reloads and a shutdown.

Real: `AIGateway`, `Daemon`, its connections and their sockets. The backend is a `Puppet`, time is virtual. After each
step everything is as the model says it must be (`tests/fakes/reference.py`).

60 histories in a run of the suite; ``pytest --hypothesis-profile=heavy tests/test_gateway_model.py`` takes 1,200.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beluna_gateway.config.settings import BackendProfile, Config
from beluna_gateway.daemon.connection import Connection
from beluna_gateway.daemon.server import Daemon
from beluna_gateway.daemon.turns import Turns
from beluna_gateway.gateway import AIGateway

from .fakes.client import user
from .fakes.clock import VirtualLoop
from .fakes.config import backend, config
from .fakes.reference import (
    BACKOFF,
    FAULTS,
    FIRST_EVENT,
    IDLE,
    OPEN,
    OPERATIONS,
    RETRIES,
    TOTAL,
    Attempt,
    Backend,
    Model,
    Puppet,
)
from .fakes.reference import Request as Asked

TERMINAL = ("completed", "failed", *(answer for answer, *_ in OPERATIONS.values()))
LARGE = 300_000
"""Characters of a text that fills the buffers of a client that does not read."""

Variant = tuple[int, int]
"""Of a backend: its places, and the failures that open its circuit."""
VARIANTS: list[Variant] = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 3)]

asked_for = st.sampled_from([*(("infer", name) for name in "aab" * 2), *((name, "a") for name in OPERATIONS)])
"""The type of a frame, and its backend."""
anyone = st.integers(0, 11)
"""Picks one of those that are there."""
# Often enough a step does not wait for the gateway, so that the next one meets it half-way.
settled = st.sampled_from([True, True, True, False])
rarely = st.sampled_from([False, False, False, False, True])


class Peer:
    """A client: its socket, what it was told, and whether it listens."""

    def __init__(self, channel: socket.socket, connection: Connection) -> None:
        self.channel = channel
        self.connection = connection
        self.asked: list[Asked] = []
        self.heard: dict[str | None, list[dict[str, Any]]] = {}
        self.cancels: dict[str, int] = {}
        self.repeated: dict[str, int] = {}
        """How often a line may have been rejected, by request."""
        self.listens = True
        self.speaks = True
        self.ended = False
        """The daemon has closed the connection."""
        self._rest = b""

    def send(self, *frames: dict[str, Any]) -> None:
        """In one write."""
        self.channel.sendall(b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))

    def hear(self) -> bool:
        """Reads what is there; whether there was something."""
        if not self.listens or self.ended:
            return False
        heard = False
        while True:
            try:
                data = self.channel.recv(1 << 20)
            except BlockingIOError:
                return heard
            except ConnectionError:
                data = b""
            if not data:
                self.ended = True
                return True
            heard = True
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                frame = json.loads(line)
                self.heard.setdefault(frame["request_id"], []).append(frame)


class GatewayMachine(RuleBasedStateMachine):
    """One gateway with the backends `a` and `b`, of which `b` may come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = _descriptors()
        self.resources = ExitStack()
        self.logged = self.resources.enter_context(structlog.testing.capture_logs())
        self.runner = self.resources.enter_context(asyncio.Runner(loop_factory=VirtualLoop))
        self.loop = self.runner.get_loop()
        self.model = Model(self.loop.time)
        self.peers: list[Peer] = []
        self.numbers = iter(range(10**6))
        self.waits_for_nothing = True
        self.broken = False
        """A step has failed: the end would only fail once more."""

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it in the machine's loop."""
        self.runner.run(work)

    # --- the beginning and the end -------------------------------------------------------------------------------

    @initialize(a=st.sampled_from(VARIANTS), b=st.sampled_from(VARIANTS))
    def begin(self, a: Variant, b: Variant) -> None:
        self.variants: dict[str, Variant | None] = {"a": a, "b": b}

        async def begin() -> None:
            parsed = self.config()
            self.gateway = AIGateway(
                parsed, Path(), adapters={"ollama": self.puppet}, telemetry=[self.model], clock=self.loop.time
            )
            self.daemon = Daemon(parsed, Path(), self.gateway)
            self.daemon.turns = _Timeless()
            self.loop.add_reader(self.daemon.hangups.fileno(), self.daemon.hangups.dispatch)
            await self.gateway.start()

        self.run(begin())
        self.model.current = {
            name: Backend(self.gateway.backends[name], *variant) for name, variant in self.variants.items() if variant
        }
        for _ in range(2):
            self.connect()

    def puppet(self, profile: BackendProfile) -> Puppet:
        return Puppet(profile, self.model)

    def config(self) -> Config:
        def settings_of(name: str, places: int, threshold: int) -> dict[str, Any]:
            return backend(
                id=name,
                budget={"max_concurrency_per_backend": places},
                reliability={"breaker_failure_threshold": threshold},
            )

        timers = {
            "request_timeout_ms": int(FIRST_EVENT * 1000),
            "idle_timeout_ms": int(IDLE * 1000),
            "max_retries": RETRIES,
            "backoff_base_ms": int(BACKOFF * 1000),
            "backoff_max_ms": int(BACKOFF * 1000),
            "breaker_open_ms": int(OPEN * 1000),
        }
        gateway = {
            "default_backend": "a",
            "reliability": timers,
            "budget": {"max_request_time_ms": int(TOTAL * 1000)},
        }
        backends = [settings_of(name, *variant) for name, variant in self.variants.items() if variant]
        return Config.model_validate(config(*backends, gateway=gateway))

    def teardown(self) -> None:
        try:
            if hasattr(self, "gateway") and not self.broken:
                self.run(self.end())
        finally:
            for peer in self.peers:
                peer.channel.close()
            self.resources.close()
        assert self.broken or _descriptors() == self.descriptors

    async def end(self) -> None:
        """A shutdown: what is in flight gets its grace and then its end, and nothing is left."""
        await self.settle()
        for peer in self.peers:
            peer.listens = True
        await self.settle()
        self.daemon.stop("the history is over")
        stopping = asyncio.create_task(self.daemon._finish_requests())
        await asyncio.sleep(3)
        await self.settle()
        self.check()
        for asked in self.model.requests.values():
            if asked.outcome is None:
                self.model.left(asked, "stop")
        self.daemon.stop("at once")
        await stopping
        await self.settle()
        self.check()
        assert all(asked.outcome is not None for asked in self.model.requests.values())
        await self.daemon._close_connections()
        for peer in self.peers:
            peer.hear()
            assert peer.ended
        async with self.gateway:
            pass
        self.loop.remove_reader(self.daemon.hangups.fileno())
        self.daemon.hangups.close()
        await asyncio.sleep(20)  # timers of the log
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for found in self.model:
            live = found.live
            assert (live.users, live.budget.in_flight, live.budget.queued) == (0, 0, 0)
            assert live.breaker.on_open == set()
        assert sum("bug" in line["event"] for line in self.logged) == self.model.bugs

    # --- clients -------------------------------------------------------------------------------------------------

    def pick(self, peers: list[Peer], number: int) -> Peer:
        return peers[number % len(peers)]

    @property
    def speaking(self) -> list[Peer]:
        return [peer for peer in self.peers if peer.speaks and not peer.ended]

    @property
    def present(self) -> list[Peer]:
        return [peer for peer in self.peers if not peer.ended]

    @precondition(lambda self: len(self.present) < 4)
    @rule()
    def connect(self) -> None:
        async def connect() -> None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
            _, connection = await self.loop.connect_accepted_socket(lambda: Connection(self.daemon), theirs)
            self.peers.append(Peer(ours, connection))

        self.run(connect())

    @precondition(lambda self: self.speaking and sum(len(self.unended(peer)) for peer in self.peers) < 8)
    @rule(who=anyone, wanted=st.lists(asked_for, min_size=1, max_size=4), cancels=rarely, wait=settled)
    def ask(self, who: int, wanted: list[tuple[str, str]], cancels: bool, wait: bool) -> None:
        """One to four requests in one write, perhaps with the cancel of the last one."""
        self.flush()
        if not self.speaking:
            return
        peer = self.pick(self.speaking, who)
        frames = []
        for kind, backend_id in wanted:
            name = f"r{next(self.numbers)}"
            fields = OPERATIONS[kind][1] if kind in OPERATIONS else {"messages": user()}
            frames.append({"type": kind, "request_id": name, "backend_id": backend_id, **fields})
            peer.asked.append(self.model.accepted(name, backend_id, kind))
        if cancels:
            frames.append({"type": "cancel", "request_id": name})
            peer.cancels[name] = 1
            self.model.left(peer.asked[-1], "cancel")
        peer.send(*frames)
        self.after(wait)

    @precondition(lambda self: any(self.unended(peer) for peer in self.speaking))
    @rule(who=anyone, which=anyone, twice=st.booleans(), completes=st.sampled_from([None, 0, 1, 2]), wait=settled)
    def cancel(self, who: int, which: int, twice: bool, completes: int | None, wait: bool) -> None:
        """Perhaps at the very moment at which the backend completes the answer: so many turns of the loop later."""
        peer = self.pick([peer for peer in self.speaking if self.unended(peer)], who)
        asked = self.unended(peer)[which % len(self.unended(peer))]
        frame = {"type": "cancel", "request_id": asked.name}
        peer.send(*[frame] * (1 + twice))
        peer.cancels[asked.name] = peer.cancels.get(asked.name, 0) + 1 + twice
        self.model.left(asked, "cancel")
        if completes is not None and (attempt := asked.attempt) in self.attempts and attempt is not None:
            attempt.commanded_to_end = True

            async def complete() -> None:
                for _ in range(completes):
                    await asyncio.sleep(0)
                attempt.commands.put_nowait(("complete", None))

            self.run(complete())
        self.after(wait)

    @precondition(lambda self: any(self.unended(peer) for peer in self.speaking))
    @rule(who=anyone, which=anyone)
    def repeat_an_id(self, who: int, which: int) -> None:
        """An id that is in flight is rejected, and its request goes on."""
        self.flush()
        if not any(self.unended(peer) for peer in self.speaking):
            return
        peer = self.pick([peer for peer in self.speaking if self.unended(peer)], who)
        asked = self.unended(peer)[which % len(self.unended(peer))]
        peer.send({"type": "infer", "request_id": asked.name, "messages": user()})
        peer.repeated[asked.name] = peer.repeated.get(asked.name, 0) + 1
        self.after(wait=True)

    @precondition(lambda self: len(self.present) > 1)
    @rule(who=anyone, wait=settled)
    def disconnect(self, who: int, wait: bool) -> None:
        self.flush()  # what is still unread when a client goes is lost with it, and was never accepted
        if not self.present:
            return
        peer = self.pick(self.present, who)
        peer.hear()
        peer.channel.close()
        peer.ended = True
        for asked in self.unended(peer):
            self.model.left(asked, "disconnect")
        self.after(wait)

    @precondition(lambda self: len(self.speaking) > 1)
    @rule(who=anyone, wait=settled)
    def half_close(self, who: int, wait: bool) -> None:
        peer = self.pick(self.speaking, who)
        peer.channel.shutdown(socket.SHUT_WR)
        peer.speaks = False
        self.after(wait)

    @precondition(lambda self: self.present)
    @rule(who=anyone)
    def stop_or_begin_to_read(self, who: int) -> None:
        peer = self.pick(self.present, who)
        peer.listens = not peer.listens
        self.after(wait=True)

    @staticmethod
    def unended(peer: Peer) -> list[Asked]:
        return [asked for asked in peer.asked if asked.outcome is None]

    # --- backends ------------------------------------------------------------------------------------------------

    @property
    def attempts(self) -> list[Attempt]:
        return [attempt for attempt in self.model.attempts if not attempt.commanded_to_end and not attempt.suspended]

    @property
    def inferences(self) -> list[Attempt]:
        """Those that may say something before their end."""
        return [attempt for attempt in self.attempts if attempt.request.type == "infer"]

    @precondition(lambda self: self.inferences)
    @rule(
        which=anyone, large=st.sampled_from([False, False, True]), pause=st.sampled_from([0.0, IDLE + 1]), wait=settled
    )
    def say(self, which: int, large: bool, pause: float, wait: bool) -> None:
        """A backend says something; a large text comes as its client has stopped reading, for a while perhaps."""
        attempt = self.inferences[which % len(self.inferences)]
        (peer,) = [peer for peer in self.peers if attempt.request in peer.asked]
        waiting = 0 if peer.connection.closed.done() else peer.connection.transport.get_write_buffer_size()
        large = large and waiting < LARGE  # with more, the daemon stops reading the client's own lines
        if large:
            peer.listens = False
        text = f"{next(self.numbers)} " + "x" * (LARGE if large else 0)
        attempt.commands.put_nowait(("say", text))
        if large:
            self.flush()
            self.run(asyncio.sleep(pause))
        self.after(wait)

    @precondition(lambda self: self.attempts)
    @rule(which=anyone, wait=settled)
    def complete(self, which: int, wait: bool) -> None:
        attempt = self.attempts[which % len(self.attempts)]
        attempt.commanded_to_end = True
        attempt.commands.put_nowait(("complete", None))
        self.after(wait)

    @precondition(lambda self: self.attempts)
    @rule(which=anyone, fault=st.sampled_from(["cut", "cut", *FAULTS]), wait=settled)
    def fail(self, which: int, fault: str, wait: bool) -> None:
        attempt = self.attempts[which % len(self.attempts)]
        attempt.commanded_to_end = True
        attempt.commands.put_nowait(("fail", fault))
        self.after(wait)

    @precondition(lambda self: self.attempts)
    @rule(apart=st.sampled_from([0.0, 0.0, 2.0]), wait=settled)
    def outage(self, apart: float, wait: bool) -> None:
        """Every attempt fails, at once or one after the other, when the circuit may be open already."""
        for attempt in self.attempts:
            if attempt in self.attempts:
                attempt.commanded_to_end = True
                attempt.commands.put_nowait(("fail", "cut"))
                self.run(asyncio.sleep(apart))
        self.after(wait)

    @rule(seconds=st.sampled_from([0.7, 1.3, 1.3, 4.0, 6.1, 9.0, 16.0, 16.0, 35.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.flush()
        self.run(asyncio.sleep(seconds))
        self.after(wait=True)

    @precondition(lambda self: any(found.state(self.loop.time()) == "open" for found in self.model))
    @rule()
    def a_circuit_becomes_half_open(self) -> None:
        self.flush()
        self.run(asyncio.sleep(OPEN))
        self.after(wait=True)

    # --- the operator --------------------------------------------------------------------------------------------

    @rule(
        a=st.sampled_from(VARIANTS),
        b=st.sampled_from([None, *VARIANTS]),
        change=st.sampled_from("ab-"),
        asks=st.booleans(),
        wait=settled,
    )
    def reload(self, a: Variant, b: Variant | None, change: str, asks: bool, wait: bool) -> None:
        """One backend changes, or comes, or goes, or nothing does; perhaps just as a request has been accepted."""
        self.flush()
        before = dict(self.variants)
        if change != "-":
            self.variants[change] = a if change == "a" else b

        peer = self.speaking[0] if asks and self.speaking else None

        async def reload() -> None:
            if peer is not None:
                name = f"r{next(self.numbers)}"
                peer.send({"type": "infer", "request_id": name, "backend_id": "a", "messages": user()})
                peer.asked.append(self.model.accepted(name, "a"))
                while peer.connection.in_flight == before_it:
                    await asyncio.sleep(0)
            self.gateway.reload(self.config())

        before_it = 0 if peer is None else peer.connection.in_flight
        current = {}
        self.run(reload())
        for name, variant in self.variants.items():
            if variant is not None:
                kept = before[name] == variant
                current[name] = self.model.current[name] if kept else Backend(self.gateway.backends[name], *variant)
        self.model.reloaded(current)
        self.after(wait)

    # --- after each step -----------------------------------------------------------------------------------------

    def after(self, wait: bool) -> None:
        self.waits_for_nothing = wait
        if wait:
            self.run(self.settle())

    def flush(self) -> None:
        """Lets the gateway serve what was sent: the model must know under which configuration it was accepted."""
        self.run(self.settle())

    async def settle(self) -> None:
        """Until the gateway has done everything that it can do without time passing."""
        while True:
            for _ in range(30):
                await asyncio.sleep(0)
            heard = [peer.hear() for peer in self.peers]
            if not any(heard):
                return

    @invariant()
    def as_the_model_says(self) -> None:
        self.broken = True
        if self.waits_for_nothing and hasattr(self, "gateway"):
            self.check()
        assert self.model.violations == []
        self.broken = False

    def check(self) -> None:
        found = self.model.overdue()
        assert not found, "\n".join(found)
        for name, live in self.gateway.backends.items():
            assert self.model.current[name].live is live
        assert set(self.daemon._connections) == {
            peer.connection for peer in self.peers if not peer.connection.closed.done()
        }
        for peer in self.peers:
            self.check_frames(peer)

    def check_frames(self, peer: Peer) -> None:
        """What a client was told is what it must be told, and in that order."""
        assert set(peer.heard) <= {asked.name for asked in peer.asked}
        if not peer.speaks and peer.listens and not self.unended(peer):
            assert peer.ended, "half-closed and without requests, but open"
        for asked in peer.asked:
            heard = peer.heard.get(asked.name, [])
            rejected = [frame for frame in heard if frame["type"] == "rejected"]
            kinds = [frame["type"] for frame in heard if frame["type"] != "rejected"]
            texts = [frame["delta"] for frame in heard if frame["type"] == "output_text_delta"]
            assert len(rejected) <= peer.cancels.get(asked.name, 0) + peer.repeated.get(asked.name, 0)
            if asked.type in OPERATIONS:
                assert kinds in ([], ["failed"], [OPERATIONS[asked.type][0]])
            else:
                assert kinds[:1] in ([], ["started"], ["failed"])
                assert kinds.count("started") <= 1
            assert not any(kind in TERMINAL for kind in kinds[:-1]), f"after the end of {asked}: {kinds}"
            assert texts == asked.texts[: len(texts)]
            ended = bool(kinds) and kinds[-1] in TERMINAL
            assert not ended or asked.outcome is not None, f"the end of a request that goes on: {asked}"
            if asked.outcome is None or not peer.listens or peer.channel.fileno() < 0:
                continue
            assert ended, f"without an end: {asked}, {kinds}"
            assert texts == asked.texts
            assert (kinds[0] == "started") == (asked.attempts > 0 and asked.type == "infer")
            assert self.told(heard) == self.outcome(asked)

    @staticmethod
    def told(heard: list[dict[str, Any]]) -> str:
        (last,) = [frame for frame in heard if frame["type"] in TERMINAL]
        return str(last["error"]["kind"]) if last["type"] == "failed" else "completed"

    @staticmethod
    def outcome(asked: Asked) -> str | None:
        """The shutdown cancels requests too, and tells their clients `internal`."""
        return "internal" if asked.outcome == "cancelled" and asked.left == "stop" else asked.outcome


class _Timeless(Turns):
    """To serve a line takes no time: how much it really took must not decide how a history goes."""

    def take(self, seconds: float) -> None:
        super().take(0.0)


def _descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


TestGateway = pytest.mark.timeout(3600)(GatewayMachine.TestCase)  # for the heavy profile, and to find a short history
TestGateway.settings = settings(
    max_examples=settings().max_examples * 3 // 5,
    stateful_step_count=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
