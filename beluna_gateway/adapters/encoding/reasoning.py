"""What a request says about reasoning, in each provider's words: `reasoning`, `enable_thinking`, `include_reasoning`.

The one table of words and budgets, and the one place that tells generations of models apart by their names. A word that
a provider does not have is refused, never replaced by a lower one. What a model refuses, it says itself: that changes
from one to the next.

Sources: `anthropic.types.ThinkingConfigParam` and `OutputConfigParam` ("Effort"), and "Thinking support, defaults, and
rejected configurations by model" in Anthropic's guide "Troubleshooting thinking"; `google.genai.types.ThinkingConfig`
and `ThinkingLevel`; `openai.types.shared_params.Reasoning`; Ollama's `docs/api.md`, `think`.

===================  ==========================================================================================
Claude up to 4.5     only `enabled`, with a budget; off by default
4.6                  `adaptive`, or `enabled`, which is deprecated; off by default
4.7, 4.8             only `adaptive`; off by default; its text is left out unless `display` asks for it
5 and later          the same, on by default; some cannot be switched off
Gemini 2.5           a budget in tokens
3 and later          a level
===================  ==========================================================================================
"""

from __future__ import annotations

import re
from typing import Literal

from ...canonical import CanonicalRequest, Effort, JsonObject, Reasoning
from ...errors import GatewayError, unsupported

BUDGETS: dict[Effort, int] = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 24576,
    "max": 32000,
}
"""Tokens for each word, for models that are given a budget and know no words."""

LEAST_BUDGET = 1024
"""The smallest budget: "Must be ≥1024 and less than `max_tokens`" (ThinkingConfigEnabledParam)."""

_CLAUDE_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
_GEMINI_LEVELS = frozenset({"minimal", "low", "medium", "high", "xhigh"})
_OLLAMA_EFFORTS = frozenset({"low", "medium", "high", "max"})

NO_REASONING = Reasoning()


# --- Anthropic -----------------------------------------------------------------------------------------------

# `claude-opus-4-6`, `claude-3-7-sonnet-20250219`, `us.anthropic.claude-opus-4-6-v1:0`, `claude-opus-4-5@20251101`,
# `anthropic/claude-opus-4.6`, `anthropic.claude-v2:1`; a date is no version.
_CLAUDE = re.compile(r"claude-(?:[a-z]+-)*v?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")
_NEWEST = (99, 0)


def claude_thinking(request: CanonicalRequest, model: str, max_tokens: int) -> tuple[JsonObject | None, str | None]:
    """The request's `thinking` and `output_config.effort`; None leaves either to the model.

    Raises:
        GatewayError: `unsupported_capability`: a word that the model's generation does not have, or no room for the
            fewest tokens that it thinks with.
    """
    wanted = request.reasoning or NO_REASONING
    refuse_summary(wanted, "anthropic")
    generation = claude_generation(model)
    adaptive = generation is not None and generation >= (4, 6)
    shown: JsonObject = {"display": "summarized"} if request.include_reasoning and adaptive else {}
    if wanted.effort == "off" or request.enable_thinking is False:
        return {"type": "disabled"}, None
    if adaptive:
        if wanted.budget_tokens is not None:
            raise unsupported(f"reasoning.budget_tokens: {model} takes no budget, only reasoning.effort")
        if wanted.effort is not None:
            _check_word(wanted.effort, _CLAUDE_EFFORTS, model)
        # Only where thinking is on anyway can showing be asked for without switching it on.
        on_by_default = generation is not None and generation >= (5, 0)
        if request.enable_thinking or wanted.effort is not None or (shown and on_by_default):
            return {"type": "adaptive", **shown}, wanted.effort
        return None, None
    budget = wanted.budget_tokens
    if wanted.effort is not None:
        budget = budget_of(wanted.effort, max_tokens)
    elif request.enable_thinking:
        budget = _half(model, max_tokens)
    return (None if budget is None else {"type": "enabled", "budget_tokens": budget}), None


def _half(model: str, max_tokens: int) -> int:
    if max_tokens <= LEAST_BUDGET:
        raise unsupported(
            f"enable_thinking: {model} thinks with {LEAST_BUDGET} tokens or more, limits.max_output_tokens must be "
            f"above that, not {max_tokens}"
        )
    return max(LEAST_BUDGET, max_tokens // 2)


def claude_generation(model: str) -> tuple[int, int] | None:
    """Claude's version in a model's name, the newest where the name has none; None for other models.

    Those are behind servers that copied the API when `enabled` was all there was (llama.cpp's knows no other). A budget
    can say every word, so nothing is lost where one of them is newer than that.
    """
    if "claude" not in model:
        return None
    found = _CLAUDE.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def budget_of(effort: Effort, max_tokens: int | None) -> int:
    """The budget for a word, cut so that the answer, of at most `max_tokens` with its thinking, has some left.

    Raises:
        GatewayError: `unsupported_capability`, where fewer than `LEAST_BUDGET` are left.
    """
    budget = BUDGETS[effort]
    if max_tokens is not None and max_tokens <= budget:
        budget = max_tokens - 1
    if budget < LEAST_BUDGET:
        raise unsupported(
            f"reasoning.effort: {effort!r} needs a budget of {LEAST_BUDGET} tokens or more and below "
            f"limits.max_output_tokens, which is {max_tokens}; raise the limit"
        )
    return budget


# --- Gemini --------------------------------------------------------------------------------------------------

# Also `gemini-flash-latest` and its likes. Any other name is taken for a model with a budget, which can say every word.
_GEMINI_3 = re.compile(r"gemini-(?:[3-9]|\d\d|(?:[a-z-]+-)?latest\b)")


def is_gemini_3(model: str) -> bool:
    """Whether the model is of Gemini's third generation or a later one."""
    return _GEMINI_3.search(model) is not None


def gemini_thinking(request: CanonicalRequest, model: str) -> JsonObject:
    """The request's `thinkingConfig`; empty where there is nothing to say.

    Raises:
        GatewayError: `unsupported_capability`: a word or a budget that the model's generation does not have.
    """
    wanted = request.reasoning or NO_REASONING
    refuse_summary(wanted, "gemini")
    thinking: JsonObject = {}
    if request.enable_thinking is not None:
        thinking["thinkingBudget"] = -1 if request.enable_thinking else 0
    elif is_gemini_3(model):
        if wanted.budget_tokens is not None:
            raise unsupported(f"reasoning.budget_tokens: {model} takes no budget, only reasoning.effort")
        if wanted.effort is not None:
            _check_word(wanted.effort, _GEMINI_LEVELS, model)
            thinking["thinkingLevel"] = wanted.effort.upper()
    elif wanted.effort == "off":
        thinking["thinkingBudget"] = 0
    elif wanted.effort is not None:
        thinking["thinkingBudget"] = budget_of(wanted.effort, request.max_output_tokens)
    elif wanted.budget_tokens is not None:
        thinking["thinkingBudget"] = wanted.budget_tokens
    # HTTP 400 otherwise: "include_thoughts is only enabled when thinking is enabled".
    if request.include_reasoning and thinking.get("thinkingBudget") != 0:
        thinking["includeThoughts"] = True
    return thinking


# --- OpenAI --------------------------------------------------------------------------------------------------


def responses_reasoning(request: CanonicalRequest) -> JsonObject:
    """The request's `reasoning` for the Responses API; empty where there is nothing to say.

    Raises:
        GatewayError: `unsupported_capability`, for a budget.
    """
    wanted = request.reasoning or NO_REASONING
    _refuse_budget(wanted, "the Responses API")
    reasoning: JsonObject = {}
    if wanted.effort is not None:
        reasoning["effort"] = openai_word(wanted.effort)
    elif request.enable_thinking is not None:
        reasoning["effort"] = "medium" if request.enable_thinking else "none"
    if wanted.summary is not None:
        reasoning["summary"] = wanted.summary
    elif request.include_reasoning:
        reasoning["summary"] = "auto"
    return reasoning


ThinkingPlace = Literal["chat_template_kwargs", "enable_thinking", "thinking_type", "reasoning_effort"]
"""Where Chat Completions servers have their switch for reasoning: `openai_compatible.thinking`."""


def chat_reasoning(request: CanonicalRequest, place: ThinkingPlace | None) -> JsonObject:
    """What goes into a Chat Completions body.

    Raises:
        GatewayError: `unsupported_capability`, for what the server, as it is configured, has no place for.
    """
    if request.reasoning is None and request.enable_thinking is None:
        return {}
    wanted = request.reasoning or NO_REASONING
    refuse_summary(wanted, "openai_compatible")
    _refuse_budget(wanted, "openai_compatible")
    if wanted.effort is None:
        return {} if request.enable_thinking is None else _chat_switch(request.enable_thinking, place)
    if place == "reasoning_effort":
        return {"reasoning_effort": openai_word(wanted.effort)}
    if place is None:
        raise _no_place("reasoning.effort")
    if wanted.effort != "off":
        raise unsupported(
            f"reasoning.effort: this backend's openai_compatible.thinking, {place!r}, switches thinking on and off "
            f"only; it has no word for {wanted.effort!r}"
        )
    return _chat_switch(False, place)


def _chat_switch(enable: bool, place: ThinkingPlace | None) -> JsonObject:
    match place:
        case "chat_template_kwargs":
            return {"chat_template_kwargs": {"enable_thinking": enable}}
        case "enable_thinking":
            return {"enable_thinking": enable}
        case "thinking_type":
            return {"thinking": {"type": "enabled" if enable else "disabled"}}
        case "reasoning_effort":
            return {"reasoning_effort": "medium" if enable else "none"}
    if not enable:  # such a backend is not asked to think in any request
        return {}
    raise _no_place("enable_thinking")


def _no_place(field: str) -> GatewayError:
    return unsupported(f"{field}: this backend has no word for it; set openai_compatible.thinking in its configuration")


def openai_word(effort: Effort) -> str:
    """OpenAI's word for an effort."""
    return "none" if effort == "off" else effort


# --- Ollama --------------------------------------------------------------------------------------------------


def ollama_think(request: CanonicalRequest) -> bool | str | None:
    """Ollama's `think`; None where there is nothing to say.

    Raises:
        GatewayError: `unsupported_capability`, for what Ollama has no word for.
    """
    wanted = request.reasoning or NO_REASONING
    refuse_summary(wanted, "ollama")
    _refuse_budget(wanted, "ollama")
    if wanted.effort is None:
        return request.enable_thinking
    if wanted.effort == "off":
        return False
    _check_word(wanted.effort, _OLLAMA_EFFORTS, "ollama")
    return wanted.effort


# --- what they share -----------------------------------------------------------------------------------------


def refuse_summary(wanted: Reasoning, owner: str) -> None:
    """Refuses `reasoning.summary`, which is a word of the Responses API.

    Raises:
        GatewayError: `unsupported_capability`.
    """
    if wanted.summary is not None:
        raise unsupported(f"reasoning.summary: only openai_responses has it, {owner} does not")


def _refuse_budget(wanted: Reasoning, owner: str) -> None:
    if wanted.budget_tokens is not None:
        raise unsupported(f"reasoning.budget_tokens: {owner} takes no budget, only reasoning.effort")


def _check_word(effort: Effort, known: frozenset[str], owner: str) -> None:
    if effort not in known:
        words = ", ".join(word for word in BUDGETS if word in known)
        raise unsupported(f"reasoning.effort: {owner} has no word for {effort!r}, it has: {words}")
