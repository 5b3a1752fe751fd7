"""What is asked of a backend besides inference, and answered with one JSON object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...canonical import BackendRawEvent, JsonObject
from ...errors import GatewayError, protocol_violation
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..decoding.error_kinds import error_in

Reader = Callable[[JsonObject], BackendRawEvent]
"""The event that an answer's body is. Raises `GatewayError`, where it is none."""


def _unchanged(error: GatewayError) -> GatewayError:
    return error


@dataclass(frozen=True, slots=True)
class Operation:
    """A request, and how its answer is read."""

    request: HttpRequest
    read: Reader
    explain: Callable[[GatewayError], GatewayError] = _unchanged
    """Makes a failure of this operation plainer."""


def version_of(dialect: HttpDialect) -> str:
    """The version that stands in Gemini's paths, where the configured endpoint has none: `/v1beta` or nothing."""
    return dialect.probe_path.removesuffix("/models")


class OperationDecoder(ResponseDecoder):
    """Reads the one body of an operation's answer."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._event: BackendRawEvent | None = None

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        raise protocol_violation("the backend answered with a JSON array; expected one object")

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        if (error := error_in(body)) is not None:
            raise error
        self._event = self._read(body)
        self.ended = True

    def finish(self, events: list[BackendRawEvent]) -> None:
        if self._event is None:
            raise protocol_violation("the backend answered with an empty body; expected one JSON object")
        events.append(self._event)
