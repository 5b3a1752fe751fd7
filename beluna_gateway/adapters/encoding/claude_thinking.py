"""Which form of `thinking` a model takes that is reached by the Messages API.

Source: "Thinking support, defaults, and rejected configurations by model" in Anthropic's guide "Troubleshooting
thinking", and `anthropic.types.ThinkingConfigParam`. In short:

===================  ==========================================================================================
up to Claude 4.5     only `enabled`, with a budget; off by default
4.6                  `adaptive`, or `enabled`, which is deprecated; off by default
4.7, 4.8             only `adaptive`; off by default; its text is left out unless `display` asks for it
5 and later          the same, on by default; some cannot be switched off
===================  ==========================================================================================

What a model refuses beside thinking (a forced tool, a temperature), it says itself: that changes from one to the next.
"""

from __future__ import annotations

import re

from ...canonical import CanonicalRequest, JsonObject
from ...errors import unsupported

_LEAST_BUDGET = 1024  # "Must be ≥1024 and less than `max_tokens`" (ThinkingConfigEnabledParam)
_GENERATION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:-(\d{1,2}))?(?!\d)")
_NEWEST = (99, 0)


def thinking_config(request: CanonicalRequest, model: str, max_tokens: int) -> JsonObject | None:
    """The request's `thinking`, or None to leave it to the model.

    Raises:
        GatewayError: `unsupported_capability`, where the model must think with more tokens than the answer may have.
    """
    generation = _generation(model)
    adaptive = generation is not None and generation >= (4, 6)
    shown: JsonObject = {"display": "summarized"} if request.include_reasoning and adaptive else {}
    if request.enable_thinking is None:
        # Only where thinking is on anyway can showing be asked for without switching it on.
        on_by_default = generation is not None and generation >= (5, 0)
        return {"type": "adaptive", **shown} if shown and on_by_default else None
    if not request.enable_thinking:
        return {"type": "disabled"}
    if adaptive:
        return {"type": "adaptive", **shown}
    if max_tokens <= _LEAST_BUDGET:
        raise unsupported(
            f"enable_thinking: {model} thinks with {_LEAST_BUDGET} tokens or more, limits.max_output_tokens must be "
            f"above that, not {max_tokens}"
        )
    return {"type": "enabled", "budget_tokens": max(_LEAST_BUDGET, max_tokens // 2)}


def _generation(model: str) -> tuple[int, int] | None:
    """Claude's version in a model's name, the newest where the name has none; None for other models.

    Those are behind servers that copied the API when `enabled` was all there was (llama.cpp's knows no other).
    """
    if "claude" not in model:
        return None
    found = _GENERATION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST
