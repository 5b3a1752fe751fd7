"""A request's `provider_options` in the body that a dialect has encoded."""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import JsonObject
from ...errors import invalid_request


def merge_options(body: JsonObject, options: JsonObject | None, at: str = "provider_options") -> None:
    """Merges a request's `provider_options` into `body`, nested objects member by member.

    Raises:
        GatewayError: `invalid_request`, for a key that the gateway has set itself for this request.
    """
    for key, value in (options or {}).items():
        if key not in body:
            body[key] = value
            continue
        own: JsonValue = body[key]
        if not isinstance(own, dict) or not isinstance(value, dict):
            raise invalid_request(
                f"{at}.{key}: the gateway sets this itself for this request, it may not be overridden"
            )
        merge_options(own, value, f"{at}.{key}")
