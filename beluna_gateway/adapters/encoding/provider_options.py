"""A request's `provider_options` in the body that a dialect has encoded."""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import JsonObject
from ...errors import invalid_request


def merge_options(body: JsonObject, options: JsonObject | None, at: str = "provider_options") -> None:
    """Merges a request's `provider_options` into `body`, nested objects member by member.

    An object that gets members is exchanged in `body`, not changed: a schema there is the request's own, which is
    encoded anew for each attempt.

    Raises:
        GatewayError: `invalid_request`, for a key that the gateway has set itself for this request.
    """
    for key, value in (options or {}).items():
        name = _own_name(key, body)
        if name not in body:
            body[name] = value
            continue
        own: JsonValue = body[name]
        if not isinstance(own, dict) or not isinstance(value, dict):
            raise invalid_request(
                f"{at}.{key}: the gateway sets this itself for this request, it may not be overridden"
            )
        body[name] = merged = {**own}
        merge_options(merged, value, f"{at}.{key}")


def _own_name(key: str, body: JsonObject) -> str:
    """`key` as the gateway spells it: Gemini takes `maxOutputTokens` as `max_output_tokens`, too, as ProtoJSON says."""
    if key in body or "_" not in key:
        return key
    first, *others = key.split("_")
    spelled = first + "".join([word[:1].upper() + word[1:] for word in others])
    return spelled if spelled in body else key
