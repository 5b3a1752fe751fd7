"""What an answer held and no frame carries: counted by kind in `completed.backend_metadata.not_carried`, or refused."""

from __future__ import annotations

from ...canonical import JsonObject
from ...errors import GatewayError, unsupported

MAX_KINDS = 32
"""Distinct kinds that are counted of one answer; further kinds are counted together as `other`."""

MAX_KIND_CHARACTERS = 64


class NotCarried:
    """The counts of one answer."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.total = 0
        """How many pieces of all kinds."""

    def add(self, kind: str, number: int = 1) -> None:
        """Counts `number` pieces of a kind, for example ``citations``; none where `number` is 0."""
        if number > 0:
            kind = self._kept(kind)
            self._counts[kind] = self._counts.get(kind, 0) + number
            self.total += number

    def at_least(self, kind: str, number: int = 1) -> None:
        """As `add`, for pieces that the backend repeats in each event: the largest number counts."""
        self.add(kind, number - self._counts.get(self._kept(kind), 0))

    def _kept(self, kind: str) -> str:
        kind = kind[:MAX_KIND_CHARACTERS]
        return kind if kind in self._counts or len(self._counts) < MAX_KINDS else "other"

    def metadata(self) -> JsonObject:
        """What is merged into `backend_metadata`: ``{"not_carried": {kind: count}}``, or nothing."""
        return {"not_carried": dict(self._counts)} if self._counts else {}


def client_action(kind: str, name: str | None = None) -> GatewayError:
    """The error for an item that waits for the client to act and that no frame can carry.

    Args:
        kind: The provider's type of the item, for example ``custom_tool_call``.
        name: Its tool, where it names one.
    """
    tool = f" ({name[:MAX_KIND_CHARACTERS]!r})" if name else ""
    return unsupported(
        f"the backend's answer has a {kind[:MAX_KIND_CHARACTERS]!r}{tool}, which waits for the client to act: no frame "
        "can carry it"
    )
