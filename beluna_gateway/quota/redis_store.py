"""Shared limits in Redis or Valkey: one connection for `quota.lua`, one that hears of places that are free again.

redis-py's pools and retries are passed over: the owner task has one connection, and decides itself what is sent again.
What may have been done is sent again safely: an id has one lease however often it is asked for, and what `End` counts
has a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import fields
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import structlog
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..config.settings import Tls
from ..errors import GatewayError
from .decision import Answer, Use
from .limits import Limits, Reason, Scope
from .store import NONSENSE, Command, End, QuotaStore, Renew, Reply, Secret, StoreAway, Take

SCRIPT = files(__package__).joinpath("quota.lua").read_text("utf-8")
SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What Redis calls the script by."""

USE_WORDS = len(fields(Use))
CONNECT_ATTEMPTS = 3
RETRY_SECONDS = 0.005
LISTEN_AGAIN_SECONDS = 1.0


class RedisStore(QuotaStore):
    """See `QuotaStore`.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        secret: The password.
        tls: For `rediss://`.
        folder: What relative paths in `tls` are relative to.
        namespace: Of the keys.
        lease: How long a lease lasts, in microseconds.
        daemon: This daemon, by a name that no other one has.
        time: Gives the time in place of the server's own, in microseconds since 1970; for tests.
    """

    kind = "redis"
    setting = "shared.url"
    poll_seconds = 1.0

    def __init__(
        self,
        url: str,
        secret: Secret,
        tls: Tls | None,
        folder: Path,
        namespace: str,
        lease: int,
        daemon: str,
        time: Callable[[], int] | None = None,
    ) -> None:
        self._secret = secret
        self._namespace = namespace
        self._channel = f"{namespace}:wake"
        self._lease = lease
        self._daemon = daemon
        self._time = time
        self._options: dict[str, Any] = dict(parse_url(url))
        self._class: type[Connection] = self._options.pop("connection_class", Connection)
        self._options |= {
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": True,
            "protocol": 2,
        }
        if issubclass(self._class, SSLConnection) and tls is not None:
            names = {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
            self._options |= {key: str(folder / name) for key, name in names.items() if name is not None}
        self._refused: str | None = None
        self._connection: Connection | None = None
        self._listener: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("beluna_gateway")

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """See `QuotaStore`. A connection that is lost is made anew, and everything sent again."""
        packed = [self._packed(command) for command in commands] or [("PING",)]
        for attempt in range(CONNECT_ATTEMPTS):
            try:
                if self._connection is None:
                    self._connection = await self._connected()
                replies = await self._sent(self._connection, packed)
                answers = [_reply(command, reply) for command, reply in zip(commands, replies, strict=False)]
                break
            except (RedisError, OSError, EOFError, asyncio.IncompleteReadError) as error:
                await self.abandon()
                if isinstance(error, (ResponseError, AuthenticationError)) or attempt + 1 == CONNECT_ATTEMPTS:
                    raise StoreAway(_said(error)) from error
                if attempt:
                    await asyncio.sleep(RETRY_SECONDS)
            except GatewayError as error:
                raise StoreAway(error.message) from error
            except NONSENSE as error:  # of redis-py, too, for answers that no Redis gives
                await self.abandon()
                why = f"what it answers is of no use ({type(error).__name__}): it is no Redis or Valkey server"
                raise StoreAway(why) from error
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="listener of shared.url")
        return answers

    async def abandon(self) -> None:
        """See `QuotaStore`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """See `QuotaStore`."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        await self.abandon()

    # --- the connection --------------------------------------------------------------------------------------

    async def _connected(self) -> Connection:
        password = await self._secret(self._refused)
        self._refused = None
        connection = self._class(**self._options, password=password)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            if isinstance(error, AuthenticationError):
                self._refused = password
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _sent(self, connection: Connection, packed: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to commands that go out together."""
        replies = await _pipeline(connection, packed)
        missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:  # the server has been started anew, or somebody has flushed its scripts
            loaded, *again = await _pipeline(
                connection, [("SCRIPT", "LOAD", SCRIPT), *(packed[index] for index in missing)]
            )
            if isinstance(loaded, ResponseError):
                raise loaded
            for index, reply in zip(missing, again, strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    async def _listen(self) -> None:
        """Hears that a place is free for this daemon, and that the store may have lost what daemons hold.

        Without it a daemon that waits asks again after `poll_seconds`, so a failure is no more than that.
        """
        while True:
            try:
                connection = await self._connected()
                try:
                    await connection.send_command("SUBSCRIBE", self._channel, f"{self._channel}:{self._daemon}")
                    await self._heard(connection)
                finally:
                    await connection.disconnect(nowait=True)
            except (RedisError, OSError, EOFError, GatewayError, *NONSENSE) as error:  # also no UTF-8
                self._log.debug("the store of the shared limits sends no news", error=str(error))
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def _heard(self, connection: Connection) -> None:
        while True:
            kind, channel, text = await connection.read_response()
            if kind != "message":
                continue
            if channel == self._channel:
                self.emptied()
            else:
                self.place_is_free(text)

    # --- what the script gets --------------------------------------------------------------------------------

    def _packed(self, command: Command) -> tuple[Any, ...]:
        scopes = command.scopes
        tag = f"{self._namespace}:{{{quote(scopes[0].backend_id, safe='')}}}"
        keys = [key for scope in scopes for key in _keys(tag, scope)]
        now = "" if self._time is None else self._time()
        head: tuple[Any, ...] = (now, self._channel, self._daemon)
        tokens = [_limit(scope.limits.tokens) for scope in scopes]
        match command:
            case Take(_, ids, known):
                limits = [limit for scope in scopes for limit in _limits(scope.limits)]
                arguments = ("take", *head, self._lease, int(known), len(scopes), *limits, *ids)
            case Renew(_, ids):
                arguments = ("renew", *head, self._lease, len(scopes), *tokens, *ids)
            case End(_, ids, number, micros, estimated, used):
                keys.append(f"{tag}:counted:{self._daemon}:{'+'.join(map(_counted, scopes))}")
                what = (scopes[0].backend_id, number, micros, estimated, used)
                arguments = ("end", *head, *what, len(scopes), *tokens, *ids)
        return ("EVALSHA", SHA, len(keys), *keys, *arguments)


async def _pipeline(connection: Connection, packed: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The replies to commands; an error is the reply to its command."""
    await connection.send_packed_command(connection.pack_commands(packed))
    replies: list[Any] = []
    for _ in packed:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


def _said(error: Exception) -> str:
    """What is wrong, and what to do where the server's own words are for clients that know clusters and replicas."""
    match error:
        case AskError():  # MOVED, too
            return (
                f"it is a node of a cluster and redirects to {error.host}:{error.port}, which is not followed: "
                "give the address of a single primary, or of a proxy for the cluster"
            )
        case ReadOnlyError() | MasterDownError():
            return f"it is a replica ({error}): give the address of the primary"
        case ClusterDownError() | TryAgainError():
            return f"it is a node of a cluster that cannot serve these keys now ({error})"
        case ResponseError() if str(error).startswith("unknown command"):
            found = str(error).partition(",")[0]
            return f"it is a Sentinel, or no Redis or Valkey server ({found}): give the address of the primary"
        case _:
            return str(error) or type(error).__name__


def _keys(tag: str, scope: Scope) -> tuple[str, str, str]:
    """State, leases and those who wait. Keys with one tag, the text in braces, are on one node of a cluster."""
    name = f"{tag}:{_whose(scope)}"
    return f"{name}:state", f"{name}:leases", f"{name}:waiting"


def _whose(scope: Scope) -> str:
    return "all" if scope.client is None else f"client:{quote(scope.client, safe='')}"


def _counted(scope: Scope) -> str:
    """With its limits: numbers are those of a queue, and one of the same scope with other limits has its own."""
    return f"{_whose(scope)}:{','.join(map(str, _limits(scope.limits)))}"


def _limits(limits: Limits) -> tuple[int, ...]:
    return tuple(map(_limit, (limits.places, limits.rate, limits.tokens, limits.day, limits.month)))


def _limit(limit: int | None) -> int:
    return -1 if limit is None else min(limit, 2**52)


def _reply(command: Command, text: str) -> Reply:
    """What the script's words say: of a `Take` the answer, and of each scope what is used."""
    words = text.split()
    if not isinstance(command, Take):
        return _uses(words)
    now, granted, reason, scope, wait = words[:5]
    refusal = None if reason == "-" else cast(Reason, reason)
    return Answer(int(now), int(granted), refusal, int(scope), int(wait), _uses(words[5:]))


def _uses(words: Sequence[str]) -> tuple[Use, ...]:
    numbers = list(map(int, words))
    return tuple(Use(*numbers[begin : begin + USE_WORDS]) for begin in range(0, len(numbers), USE_WORDS))
