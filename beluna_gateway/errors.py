"""Every way a request can fail: one exception and a closed list of kinds.

=======================  ======================================================================
kind                     what it means
=======================  ======================================================================
invalid_request          the request itself is wrong; sending it again cannot help
unsupported_capability   the chosen backend cannot carry something that the request asks for
authentication           no credential, or one that the backend does not accept
authorization            the credential is known, but may not do this
rate_limited             the backend refused for a quota or a rate limit
timeout                  one of the gateway's timers ran out; the message names it
circuit_open             the circuit breaker of this backend is open
budget_exceeded          the request exceeds a limit of the configuration
backend_transient        the backend failed in a way that may pass
backend_permanent        the backend failed in a way that will not pass by itself
protocol_violation       the backend's answer breaks the rules of its dialect
internal                 a bug in the gateway, or the daemon is stopping (then retryable)
cancelled                the client sent ``cancel``
=======================  ======================================================================

A program decides by ``kind`` and ``retryable``; ``message`` is for people.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypedDict, Unpack

ErrorKind = Literal[
    "invalid_request",
    "unsupported_capability",
    "authentication",
    "authorization",
    "rate_limited",
    "timeout",
    "circuit_open",
    "budget_exceeded",
    "backend_transient",
    "backend_permanent",
    "protocol_violation",
    "internal",
    "cancelled",
]


class _Changes(TypedDict, total=False):
    kind: ErrorKind
    message: str
    retryable: bool
    backend_id: str | None
    provider_code: str | None
    provider_http_status: int | None
    retry_after_ms: int | None
    retry_at_ms: int | None


class GatewayError(Exception):
    """The one exception that leaves the gateway. Its fields are read-only, for several requests may hold one error.

    Args:
        kind: One of the kinds in the table above.
        message: For people: what was found, where, what was expected, what to do.
        retryable: Whether the same request may succeed if it is sent again.
        backend_id: The configured backend, where one had been chosen.
        provider_code: The provider's own error code.
        provider_http_status: The HTTP status of the provider's answer.
        retry_after_ms: The wait that the backend or the breaker asks for, in milliseconds.
        retry_at_ms: What the backend names in place of a wait: a time, in milliseconds of Unix time. None by the time
            the error leaves the adapter, which makes a wait of it.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        retryable: bool = False,
        backend_id: str | None = None,
        provider_code: str | None = None,
        provider_http_status: int | None = None,
        retry_after_ms: int | None = None,
        retry_at_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: Final = kind
        self.message: Final = message
        self.retryable: Final = retryable
        self.backend_id: Final = backend_id
        self.provider_code: Final = provider_code
        self.provider_http_status: Final = provider_http_status
        self.retry_after_ms: Final = retry_after_ms
        self.retry_at_ms: Final = retry_at_ms

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise AttributeError(f"{name!r} is read-only: use replace()")
        super().__setattr__(name, value)

    def replace(self, **changes: Unpack[_Changes]) -> GatewayError:
        """Another error with `changes` of the fields; it has neither the traceback nor the cause of this one."""
        fields: dict[str, Any] = {**self.__dict__, **changes}
        fields.pop("__notes__", None)
        return GatewayError(**fields)

    def __repr__(self) -> str:
        return f"GatewayError({self.kind}: {self.message})"


def forget_frames(error: BaseException) -> None:
    """Drops the tracebacks of `error` and of the errors that led to it.

    A traceback holds its frames, they hold the request and often the error itself: a cycle of megabytes that only the
    garbage collector would free. For an error that nobody will raise again.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            waiting += [link.__cause__, link.__context__]


MAX_NAME_CHARACTERS = 100
"""Longer names are cut where a message quotes them: those that clients give may have megabytes."""


def quoted(name: str) -> str:
    """`name` in quotation marks, cut to `MAX_NAME_CHARACTERS`."""
    return repr(name if len(name) <= MAX_NAME_CHARACTERS else f"{name[:MAX_NAME_CHARACTERS]}…")


def invalid_request(message: str) -> GatewayError:
    """The request is wrong; nothing was sent to a backend."""
    return GatewayError("invalid_request", message)


def unsupported(message: str) -> GatewayError:
    """The dialect or backend cannot carry what the request asks for; `message` names the field."""
    return GatewayError("unsupported_capability", message)


def protocol_violation(message: str) -> GatewayError:
    """The backend's answer breaks the rules of its dialect."""
    return GatewayError("protocol_violation", message)


def cut_off(message: str) -> GatewayError:
    """The backend's answer ended before its end mark."""
    return GatewayError("backend_transient", message, retryable=True)
