"""What a request asks of the provider's prompt cache, with the backend's configured default under it.

Sources: Anthropic's guide "Prompt caching" and `anthropic.types.CacheControlEphemeralParam`; OpenAI's guide "Prompt
caching" and `openai.types.responses.ResponseCreateParams` (`prompt_cache_key`, `prompt_cache_retention`,
`prompt_cache_options`). Gemini and Ollama cache by themselves and take no key.
"""

from __future__ import annotations

import re

from ...canonical import Cache, CanonicalRequest, JsonObject, immutable
from ...config.settings import CacheSettings
from ...errors import unsupported


@immutable
class Caching:
    """What is asked for: `automatic`, to keep the whole prompt; `marks`, to heed those of messages; `long`, to keep it
    longer.
    """

    automatic: bool = False
    marks: bool = False
    key: str | None = None
    long: bool = False


_ONLY_MARKS = Caching(marks=True)


def caching(request: CanonicalRequest, configured: CacheSettings | None) -> Caching:
    """The request's `cache` field by field over the backend's; where neither is there, only marks count.

    `mode` `off` asks for nothing at all, not by a mark either.
    """
    own = request.cache
    if own is None and configured is None:
        return _ONLY_MARKS
    own, default = own or Cache(), configured or CacheSettings()
    if (own.mode or default.mode) == "off":
        return Caching()
    return Caching(
        automatic=True,
        marks=True,
        key=default.key if own.key is None else own.key,
        long=(own.retention or default.retention) == "long",
    )


def openai_cache(asked: Caching, owner: str, *, at_openai: bool, lifetimes: bool = False) -> JsonObject:
    """What goes into the body of either of OpenAI's interfaces, at OpenAI and Azure. Others have no place for it.

    Args:
        asked: What is asked for.
        owner: The dialect, for errors.
        at_openai: Whether the backend is OpenAI or Azure.
        lifetimes: Whether the model has lifetimes (`has_cache_lifetimes`) and the interface a long one among them.

    Raises:
        GatewayError: `unsupported_capability`, from others.
    """
    if asked.key is None and not asked.long:
        return {}
    if not at_openai:
        refuse_cache(asked, f"this backend ({owner}, neither OpenAI nor Azure)")
        return {}
    fields: JsonObject = {} if asked.key is None else {"prompt_cache_key": asked.key}
    if asked.long and lifetimes:
        fields["prompt_cache_options"] = {"ttl": "12h"}
    elif asked.long:
        fields["prompt_cache_retention"] = "24h"
    return fields


_GPT = re.compile(r"gpt-(\d{1,2})(?!\d)(?:\.(\d{1,2}))?")


def has_cache_lifetimes(model: str) -> bool:
    """Whether OpenAI's model is GPT-5.6 or a later one: "prompt_cache_retention is not supported on this model" (HTTP
    400); `prompt_cache_options.ttl` has taken its place (openai.types.responses.response_create_params).
    """
    found = _GPT.search(model)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= (5, 6)


def refuse_cache(asked: Caching, owner: str) -> None:
    """For providers that cache by themselves or not at all: marks and `short` are satisfied as they are.

    Raises:
        GatewayError: `unsupported_capability`, for a key or a long retention.
    """
    refuse_cache_key(asked, owner)
    if asked.long:
        raise unsupported(f"cache.retention: {owner} has no place for 'long'")


def refuse_cache_key(asked: Caching, owner: str) -> None:
    """For providers without a place for a key.

    Raises:
        GatewayError: `unsupported_capability`.
    """
    if asked.key is not None:
        raise unsupported(f"cache.key: {owner} has no place for it")


class CacheMarks:
    """Anthropic's `cache_control`, on the last block of each marked message.

    A message of which nothing is sent has no block, and so no mark. Marks stand on their own messages only, so that the
    body of the next turn begins with this one's.
    """

    def __init__(self, asked: Caching) -> None:
        self.control: JsonObject = {"type": "ephemeral", "ttl": "1h"} if asked.long else {"type": "ephemeral"}
        self._heeded = asked.marks
        self.placed = 0

    def mark(self, blocks: list[JsonObject], marked: bool) -> list[JsonObject]:
        """`blocks` of one message, with the mark where the message is `marked`."""
        if not (marked and self._heeded and blocks):
            return blocks
        self.placed += 1
        return [*blocks[:-1], {**blocks[-1], "cache_control": {**self.control}}]
