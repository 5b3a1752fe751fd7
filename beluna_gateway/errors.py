"""Every way a request can fail: one exception and a closed list of kinds.

=======================  ======================================================================
kind                     what it means
=======================  ======================================================================
invalid_request          the request itself is wrong; sending it again cannot help
unsupported_capability   the chosen backend has no place for something that was asked for
authentication           no credential, or one that the backend does not accept
authorization            the credential is known, but may not do this
rate_limited             the backend says "too many"
timeout                  one of our timers ran out; the message names it
circuit_open             the breaker of this backend refuses for now
budget_exceeded          a limit of our own configuration
backend_transient        the backend failed in a way that may pass
backend_permanent        the backend failed in a way that will not pass by itself
protocol_violation       the backend answered something that its dialect does not allow
internal                 a bug here, or the daemon is stopping (then retryable)
cancelled                the client sent ``cancel``
=======================  ======================================================================

A program decides by ``kind`` and ``retryable``; ``message`` is for people.
"""

from __future__ import annotations

from typing import Literal, get_args

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

ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)


class GatewayError(Exception):
    """The one exception that leaves the gateway.

    Args:
        kind: One of `ERROR_KINDS`.
        message: What was found, where, what was expected, what to do.
        retryable: Whether the same request may succeed if it is simply sent again.
        backend_id: The configured backend, where one had been chosen.
        provider_code: The provider's own word for the failure.
        provider_http_status: The status of the provider's answer.
        retry_after_ms: When to come back, where somebody said so.
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
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.message = message
        self.retryable = retryable
        self.backend_id = backend_id
        self.provider_code = provider_code
        self.provider_http_status = provider_http_status
        self.retry_after_ms = retry_after_ms

    def __repr__(self) -> str:
        return f"GatewayError({self.kind}: {self.message})"


def invalid_request(message: str) -> GatewayError:
    """The request is wrong; nothing was sent to a backend."""
    return GatewayError("invalid_request", message)


def unsupported(message: str) -> GatewayError:
    """The dialect or backend has no place for what was asked; `message` names the field."""
    return GatewayError("unsupported_capability", message)


def protocol_violation(message: str) -> GatewayError:
    """A backend said something that its dialect does not allow."""
    return GatewayError("protocol_violation", message)


def cut_off(message: str) -> GatewayError:
    """A backend's answer stopped before its end mark."""
    return GatewayError("backend_transient", message, retryable=True)
