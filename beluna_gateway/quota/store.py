"""What a store of shared limits is asked, and the interface of its two kinds: Redis and SQLite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .decision import Answer, Use
from .limits import Scope


class StoreAway(Exception):
    """The store gave no answer; the message says why."""


NONSENSE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What is raised where the content of a reply is not what this package writes: some other program's."""


@dataclass(frozen=True, slots=True)
class Take:
    """Asks for leases; see `decision.take`."""

    scopes: tuple[Scope, ...]
    ids: tuple[str, ...]
    known: bool


@dataclass(frozen=True, slots=True)
class End:
    """Gives leases back, and counts what their requests have used; see `decision.end`.

    Money and tokens of one `number` are counted once, however often it is sent.
    """

    scopes: tuple[Scope, ...]
    ids: tuple[str, ...]
    number: int
    """Rises with each `End` of these scopes; of the same scopes with other limits it has its own sequence."""
    micros: int
    estimated: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Keeps leases alive, and asks what is used; see `decision.renew`."""

    scopes: tuple[Scope, ...]
    ids: tuple[str, ...]


Command = Take | End | Renew
Reply = Answer | tuple[Use, ...]
"""`Answer` to `Take`, what is used of each scope to the others."""

Secret = Callable[[str | None], Awaitable[str | None]]
"""The server's password, asked for at each connection; None where there is none. The argument is the one that it has
just refused, None where it has not. Raises `GatewayError`."""


class QuotaStore(ABC):
    """A store, seen from one daemon. One `exchange` at a time."""

    kind: str
    """`redis` or `sqlite`."""
    setting: str
    """Its place in the configuration."""
    poll_seconds: float
    """After about this long a daemon that waits for a place asks again, although nobody woke it."""
    place_is_free: Callable[[str], None]
    """Called where another daemon has given places back at a backend, by its id. Set by whoever uses the store."""
    emptied: Callable[[], None]
    """Called where the store seems to have forgotten what daemons hold. Set by whoever uses it."""

    @abstractmethod
    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Does `commands` in order; without any it only looks whether the store is there.

        Raises:
            StoreAway: No answer; some of the commands may have been done.
        """

    async def abandon(self) -> None:
        """The answer to the last exchange is not waited for any more, and must not be taken for that to the next."""

    @abstractmethod
    async def close(self) -> None:
        """Ends connections and threads. It may be used again afterwards."""
