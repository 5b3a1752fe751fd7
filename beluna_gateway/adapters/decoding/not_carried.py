"""What an answer held and no frame carries, counted by kind: `completed.backend_metadata.not_carried`."""

from __future__ import annotations

from ...canonical import JsonObject

MAX_KINDS = 32
"""Distinct kinds that are counted of one answer; further kinds are counted together as `other`."""

MAX_KIND_CHARACTERS = 64


class NotCarried:
    """The counts of one answer."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, kind: str, number: int = 1) -> None:
        """Counts `number` pieces of a kind, for example ``citations``; none where `number` is 0."""
        if number <= 0:
            return
        kind = kind[:MAX_KIND_CHARACTERS]
        if kind not in self._counts and len(self._counts) >= MAX_KINDS:
            kind = "other"
        self._counts[kind] = self._counts.get(kind, 0) + number

    def metadata(self) -> JsonObject:
        """What is merged into `backend_metadata`: ``{"not_carried": {kind: count}}``, or nothing."""
        return {"not_carried": dict(self._counts)} if self._counts else {}
