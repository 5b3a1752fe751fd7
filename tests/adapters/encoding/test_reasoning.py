"""`reasoning`, `enable_thinking` and `include_reasoning` in every dialect's words, for every generation of models."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from beluna_gateway.adapters.encoding.reasoning import (
    BUDGETS,
    NO_REASONING,
    claude_generation,
    claude_thinking,
    gemini_thinking,
    is_gemini_3,
    responses_reasoning,
)
from beluna_gateway.errors import GatewayError

from ..oracles import ORACLES
from ..recorded import canonical, dialect

EFFORTS = ("off", *BUDGETS)
MANUAL = ["claude-3-7-sonnet-20250219", "claude-opus-4-20250514", "claude-sonnet-4-5", "claude-haiku-4-5-20251001"]
NEWER = ["claude-opus-4-6", "claude-opus-4-8", "anthropic.claude-opus-4-7-v1:0", "claude-opus-4-6@20260205"]
NEWEST = ["claude-sonnet-5", "claude-opus-5-5", "claude-fable-5", "claude-mythos-preview"]
CHAT_SWITCHES = ("chat_template_kwargs", "enable_thinking", "thinking_type")


def frame(**fields: Any) -> dict[str, Any]:
    return {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}], **fields}


def body_of(name: str, model: str, backend: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The body, which the provider's own SDK takes."""
    body = dialect(name, **(backend or {})).encode(canonical(frame(**fields)), model).body
    ORACLES[name].request(json.loads(json.dumps(body)))
    return body


def refusal(name: str, model: str, backend: dict[str, Any] | None = None, **fields: Any) -> str:
    with pytest.raises(GatewayError) as caught:
        body_of(name, model, backend, **fields)
    assert (caught.value.kind, caught.value.retryable) == ("unsupported_capability", False)
    return caught.value.message


def chat(thinking: str | None) -> dict[str, Any]:
    return {} if thinking is None else {"openai_compatible": {"thinking": thinking}}


def limited(tokens: int) -> dict[str, Any]:
    return {"limits": {"max_output_tokens": tokens}}


# --- which generation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "generation"),
    [
        ("claude-3-7-sonnet-20250219", (3, 7)),
        ("claude-3-opus@20240229", (3, 0)),
        ("claude-opus-4-20250514", (4, 0)),
        ("claude-opus-4@20250514", (4, 0)),
        ("claude-opus-4-5-20251101", (4, 5)),
        ("claude-opus-4-5@20251101", (4, 5)),
        ("us.anthropic.claude-opus-4-6-v1:0", (4, 6)),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", (4, 5)),
        ("anthropic.claude-v2:1", (2, 0)),
        ("anthropic.claude-instant-v1", (1, 0)),
        ("anthropic/claude-opus-4.6", (4, 6)),
        ("anthropic/claude-3.5-haiku", (3, 5)),
        ("claude-opus-4-8", (4, 8)),
        ("claude-haiku-5-5", (5, 5)),
        ("claude-opus-10-20270101", (10, 0)),
        ("claude-mythos-preview", (99, 0)),
        ("claude-sonnet-latest", (99, 0)),
        ("smollm2", None),
        ("some-model-4-6", None),
    ],
)
def test_claudes_generation_is_read_from_the_models_name(model: str, generation: Any) -> None:
    """As Anthropic, Bedrock, Vertex and routers write it. A date is no version, and no version means the newest."""
    assert claude_generation(model) == generation


@pytest.mark.parametrize(
    ("model", "third"),
    [
        ("gemini-3-pro-preview", True),
        ("models/gemini-3.1-flash", True),
        ("publishers/google/models/gemini-10-pro", True),
        ("gemini-flash-latest", True),
        ("gemini-flash-lite-latest", True),
        ("gemini-2.5-pro", False),
        ("gemini-2.0-flash", False),
        ("gemini-robotics-er-1.5-preview", False),
        ("tunedModels/mine", False),
        ("gemma-3-27b-it", False),
    ],
)
def test_geminis_generation_is_read_from_the_models_name(model: str, third: bool) -> None:
    """Names of an unknown kind are taken for models with a budget, which can say every word."""
    assert is_gemini_3(model) is third


# --- effort --------------------------------------------------------------------------------------------------

CLAUDE_OLD: dict[str, Any] = {
    "off": {"thinking": {"type": "disabled"}},
    **{word: {"thinking": {"type": "enabled", "budget_tokens": tokens}} for word, tokens in BUDGETS.items()},
}
CLAUDE_NEW: dict[str, Any] = {
    "off": {"thinking": {"type": "disabled"}},
    **{
        word: {"thinking": {"type": "adaptive"}, "output_config": {"effort": word}}
        for word in ("low", "medium", "high", "xhigh", "max")
    },
}
GEMINI_25: dict[str, Any] = {
    "off": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}},
    **{word: {"generationConfig": {"thinkingConfig": {"thinkingBudget": n}}} for word, n in BUDGETS.items()},
}
GEMINI_3: dict[str, Any] = {
    word: {"generationConfig": {"thinkingConfig": {"thinkingLevel": word.upper()}}}
    for word in ("minimal", "low", "medium", "high", "xhigh")
}
OLLAMA: dict[str, Any] = {
    "off": {"think": False},
    **{word: {"think": word} for word in ("low", "medium", "high", "max")},
}
RESPONSES: dict[str, Any] = {
    "off": {"reasoning": {"effort": "none"}},
    **{
        word: {"reasoning": {"effort": word}, "include": ["reasoning.encrypted_content"]}
        for word in EFFORTS
        if word != "off"
    },
}
CHAT_EFFORT: dict[str, Any] = {word: {"reasoning_effort": "none" if word == "off" else word} for word in EFFORTS}
CHAT_OFF: dict[str, dict[str, Any]] = {
    "chat_template_kwargs": {"off": {"chat_template_kwargs": {"enable_thinking": False}}},
    "enable_thinking": {"off": {"enable_thinking": False}},
    "thinking_type": {"off": {"thinking": {"type": "disabled"}}},
}

TABLE: list[tuple[str, str, str | None, dict[str, Any]]] = [
    ("openai_responses", "gpt-5.6-sol", None, RESPONSES),
    ("openai_compatible", "m", "reasoning_effort", CHAT_EFFORT),
    *[("openai_compatible", "m", switch, CHAT_OFF[switch]) for switch in CHAT_SWITCHES],
    ("openai_compatible", "m", None, {}),
    *[("anthropic", model, None, CLAUDE_OLD) for model in (*MANUAL, "llama")],
    *[("anthropic", model, None, CLAUDE_NEW) for model in (*NEWER, *NEWEST)],
    ("gemini", "gemini-2.5-pro", None, GEMINI_25),
    ("gemini", "tunedModels/mine", None, GEMINI_25),
    ("gemini", "gemini-3-pro-preview", None, GEMINI_3),
    ("ollama", "m", None, OLLAMA),
]


def wide(name: str) -> dict[str, Any]:
    """A limit above every budget, which Anthropic always needs."""
    return limited(64_000) if name == "anthropic" else {}


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize(("name", "model", "thinking", "words"), TABLE, ids=lambda value: str(value)[:40])
def test_each_effort_is_the_providers_own_word_or_refused(
    name: str, model: str, thinking: str | None, words: dict[str, Any], effort: str
) -> None:
    """Nothing else of the body changes; a word that the provider does not have is named, never lowered."""
    plain = body_of(name, model, chat(thinking), **wide(name))
    if effort in words:
        assert body_of(name, model, chat(thinking), reasoning={"effort": effort}, **wide(name)) == plain | words[effort]
    else:
        assert "reasoning.effort" in refusal(name, model, chat(thinking), reasoning={"effort": effort}, **wide(name))


def test_an_unconfigured_chat_backend_says_what_to_configure() -> None:
    """Whether such a server has a place for effort is not known: it is not claimed to be satisfied."""
    assert "openai_compatible.thinking" in refusal("openai_compatible", "m", reasoning={"effort": "off"})


@pytest.mark.parametrize(
    ("max_tokens", "effort", "budget"),
    [(64_000, "max", 32_000), (32_000, "max", 31_999), (4096, "high", 4095), (2049, "low", 2048), (1025, "low", 1024)],
)
def test_a_budget_of_the_table_is_cut_below_max_tokens(max_tokens: int, effort: str, budget: int) -> None:
    """A thinking budget is less than what the answer may have in all."""
    claude = body_of("anthropic", "claude-sonnet-4-5", reasoning={"effort": effort}, **limited(max_tokens))
    gemini = body_of("gemini", "gemini-2.5-flash", reasoning={"effort": effort}, **limited(max_tokens))

    assert claude["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert gemini["generationConfig"]["thinkingConfig"] == {"thinkingBudget": budget}


@pytest.mark.parametrize(("name", "model"), [("anthropic", "claude-sonnet-4-5"), ("gemini", "gemini-2.5-flash")])
@pytest.mark.parametrize("max_tokens", [1, 1024])
def test_a_budget_that_is_cut_below_1024_is_refused(name: str, model: str, max_tokens: int) -> None:
    """The gateway neither raises the client's limit nor leaves the thinking out."""
    said = refusal(name, model, reasoning={"effort": "minimal"}, **limited(max_tokens))

    assert "reasoning.effort" in said
    assert "limits.max_output_tokens" in said


def test_without_a_limit_the_configured_default_is_the_one_that_counts() -> None:
    """Anthropic's `max_tokens` is always sent, so a budget is always below it."""
    body = body_of("anthropic", "claude-sonnet-4-5", reasoning={"effort": "high"})

    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (4096, 4095)
    roomy = body_of(
        "anthropic", "claude-sonnet-4-5", {"anthropic": {"default_max_tokens": 40_000}}, reasoning={"effort": "high"}
    )
    assert roomy["thinking"]["budget_tokens"] == 16_384


def test_effort_and_a_schema_share_output_config() -> None:
    """Both stand in Anthropic's `output_config`."""
    schema = {"type": "object"}
    mode = {"json_schema": {"name": "answer", "schema": schema}}
    body = body_of("anthropic", "claude-opus-4-6", reasoning={"effort": "low"}, output_mode=mode)

    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}


def test_shown_reasoning_stands_beside_the_effort() -> None:
    """`include_reasoning` asks for the text of it, wherever that is a switch of its own."""
    asked: dict[str, Any] = {"reasoning": {"effort": "low"}, "include_reasoning": True}

    assert body_of("anthropic", "claude-opus-4-7", **asked)["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body_of("gemini", "gemini-3-pro-preview", **asked)["generationConfig"]["thinkingConfig"] == {
        "thinkingLevel": "LOW",
        "includeThoughts": True,
    }
    assert body_of("openai_responses", "m", **asked)["reasoning"] == {"effort": "low", "summary": "auto"}


# --- budgets and summaries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 1, 500, 8000, 1_000_000])
def test_a_budget_that_the_client_names_is_sent_as_it_is(budget: int) -> None:
    """What the model refuses, it says itself."""
    asked = {"reasoning": {"budget_tokens": budget}, **limited(4096)}

    claude = body_of("anthropic", "claude-sonnet-4-5", **asked)
    gemini = body_of("gemini", "gemini-2.5-flash", **asked)
    assert claude["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert gemini["generationConfig"]["thinkingConfig"] == {"thinkingBudget": budget}


@pytest.mark.parametrize(
    ("name", "model", "thinking"),
    [
        ("openai_responses", "m", None),
        *[("openai_compatible", "m", word) for word in (None, "reasoning_effort", *CHAT_SWITCHES)],
        *[("anthropic", model, None) for model in (*NEWER, *NEWEST)],
        ("gemini", "gemini-3-pro-preview", None),
        ("ollama", "m", None),
    ],
)
def test_a_budget_is_refused_where_there_is_no_place_for_it(name: str, model: str, thinking: str | None) -> None:
    """By name, and by the same name everywhere."""
    assert "reasoning.budget_tokens" in refusal(name, model, chat(thinking), reasoning={"budget_tokens": 2048})


@pytest.mark.parametrize(
    ("asked", "reasoning"),
    [
        ({"summary": "detailed"}, {"summary": "detailed"}),
        ({"summary": "concise", "effort": "high"}, {"summary": "concise", "effort": "high"}),
        ({"summary": "auto", "effort": "off"}, {"summary": "auto", "effort": "none"}),
    ],
)
def test_a_summary_is_the_responses_apis_word(asked: dict[str, Any], reasoning: dict[str, Any]) -> None:
    """It stands in `reasoning`, in place of the one that `include_reasoning` asks for."""
    body = body_of("openai_responses", "m", reasoning=asked)

    assert (body["reasoning"], body["include"]) == (reasoning, ["reasoning.encrypted_content"])
    assert body_of("openai_responses", "m", reasoning=asked, include_reasoning=True)["reasoning"] == reasoning


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai_compatible", "m"),
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-opus-4-6"),
        ("gemini", "gemini-2.5-pro"),
        ("gemini", "gemini-3-pro-preview"),
        ("ollama", "m"),
    ],
)
def test_a_summary_is_refused_elsewhere(name: str, model: str) -> None:
    """Nothing is dropped in silence."""
    assert "reasoning.summary" in refusal(name, model, reasoning={"summary": "auto"})


_NO_SUMMARY = "reasoning.summary: only openai_responses has it, {} does not"
_NO_BUDGET = "reasoning.budget_tokens: {} takes no budget, only reasoning.effort"
_NO_WORD = "reasoning.effort: {} has no word for {!r}, it has: {}"
_NOT_CONFIGURED = "{}: this backend has no word for it; set openai_compatible.thinking in its configuration"
_ON_AND_OFF = (
    "reasoning.effort: this backend's openai_compatible.thinking, {!r}, switches thinking on and off only; it has no "
    "word for {!r}"
)


@pytest.mark.parametrize(
    ("name", "model", "reasoning", "said"),
    [
        ("openai_compatible", "m", {"summary": "auto"}, _NO_SUMMARY.format("openai_compatible")),
        ("anthropic", "claude-opus-4-6", {"summary": "auto"}, _NO_SUMMARY.format("anthropic")),
        ("gemini", "gemini-2.5-pro", {"summary": "auto"}, _NO_SUMMARY.format("gemini")),
        ("ollama", "m", {"summary": "auto"}, _NO_SUMMARY.format("ollama")),
        ("openai_compatible", "m", {"budget_tokens": 2048}, _NO_BUDGET.format("openai_compatible")),
        ("openai_responses", "m", {"budget_tokens": 2048}, _NO_BUDGET.format("the Responses API")),
        ("anthropic", "claude-opus-4-6", {"budget_tokens": 2048}, _NO_BUDGET.format("claude-opus-4-6")),
        ("gemini", "models/gemini-3-pro", {"budget_tokens": 2048}, _NO_BUDGET.format("models/gemini-3-pro")),
        ("ollama", "m", {"budget_tokens": 2048}, _NO_BUDGET.format("ollama")),
        (
            "anthropic",
            "claude-opus-4-6",
            {"effort": "minimal"},
            _NO_WORD.format("claude-opus-4-6", "minimal", "low, medium, high, xhigh, max"),
        ),
        (
            "gemini",
            "models/gemini-3-pro",
            {"effort": "max"},
            _NO_WORD.format("models/gemini-3-pro", "max", "minimal, low, medium, high, xhigh"),
        ),
        ("ollama", "m", {"effort": "minimal"}, _NO_WORD.format("ollama", "minimal", "low, medium, high, max")),
        ("openai_compatible", "m", {"effort": "low"}, _NOT_CONFIGURED.format("reasoning.effort")),
    ],
    ids=str,
)
def test_a_refusal_says_who_refuses_and_what_there_is(
    name: str, model: str, reasoning: dict[str, Any], said: str
) -> None:
    """The field, who has no place for it, and the words that it has instead, from the lowest to the highest."""
    assert refusal(name, model, reasoning=reasoning, **wide(name)) == said


def test_a_chat_backend_says_which_switch_it_has() -> None:
    """One that is configured names its own; one that is not says what to configure."""
    for switch in CHAT_SWITCHES:
        assert refusal("openai_compatible", "m", chat(switch), reasoning={"effort": "low"}) == _ON_AND_OFF.format(
            switch, "low"
        )
    assert refusal("openai_compatible", "m", enable_thinking=True) == _NOT_CONFIGURED.format("enable_thinking")


# --- enable_thinking -----------------------------------------------------------------------------------------


def thinking(model: str, max_tokens: int = 4096, **fields: Any) -> Any:
    config, effort = claude_thinking(canonical(frame(**fields)), model, max_tokens)
    assert effort is None
    return config


@pytest.mark.parametrize("model", [*MANUAL, "smollm2", "some-model-4-6"])
def test_older_models_get_a_budget_below_max_tokens(model: str) -> None:
    """`enabled` needs a budget of at least 1024 that is less than max_tokens."""
    for max_tokens in (1025, 1500, 4096, 100_000):
        config = thinking(model, max_tokens, enable_thinking=True)

        assert config["type"] == "enabled"
        assert 1024 <= config["budget_tokens"] < max_tokens


@pytest.mark.parametrize(("max_tokens", "budget"), [(1025, 1024), (2048, 1024), (2051, 1025), (5001, 2500)])
def test_thinking_that_is_only_switched_on_takes_half_of_the_answer(max_tokens: int, budget: int) -> None:
    """The other half is for what comes after it; a whole number of tokens, and at least 1024."""
    config = thinking("claude-sonnet-4-5", max_tokens, enable_thinking=True)

    assert repr(config["budget_tokens"]) == repr(budget)


CHAT_SWITCHED: list[tuple[str | None, bool, dict[str, Any]]] = [
    ("chat_template_kwargs", True, {"chat_template_kwargs": {"enable_thinking": True}}),
    ("chat_template_kwargs", False, {"chat_template_kwargs": {"enable_thinking": False}}),
    ("enable_thinking", True, {"enable_thinking": True}),
    ("enable_thinking", False, {"enable_thinking": False}),
    ("thinking_type", True, {"thinking": {"type": "enabled"}}),
    ("thinking_type", False, {"thinking": {"type": "disabled"}}),
    ("reasoning_effort", True, {"reasoning_effort": "medium"}),
    ("reasoning_effort", False, {"reasoning_effort": "none"}),
    (None, False, {}),
]


@pytest.mark.parametrize(("place", "enable", "added"), CHAT_SWITCHED)
def test_a_chat_backend_switches_where_its_configuration_says(
    place: str | None, enable: bool, added: dict[str, Any]
) -> None:
    """Each place has a word for on and one for off; a backend without a place is not asked to think anyway."""
    plain = body_of("openai_compatible", "m", chat(place))

    assert not added.keys() & plain.keys()
    assert body_of("openai_compatible", "m", chat(place), enable_thinking=enable) == plain | added


@pytest.mark.parametrize(
    ("fields", "config", "reasoning"),
    [
        ({"enable_thinking": True}, {"thinkingBudget": -1}, {"effort": "medium"}),
        ({"enable_thinking": False}, {"thinkingBudget": 0}, {"effort": "none"}),
        ({"include_reasoning": True}, {"includeThoughts": True}, {"summary": "auto"}),
        (
            {"enable_thinking": True, "include_reasoning": True},
            {"thinkingBudget": -1, "includeThoughts": True},
            {"effort": "medium", "summary": "auto"},
        ),
        (
            {"enable_thinking": False, "include_reasoning": True},
            {"thinkingBudget": 0},
            {"effort": "none", "summary": "auto"},
        ),
        ({}, {}, {}),
    ],
)
def test_gemini_and_the_responses_api_are_switched_by_a_number_and_a_word(
    fields: dict[str, Any], config: dict[str, Any], reasoning: dict[str, Any]
) -> None:
    """-1 leaves the budget to Gemini's model; what does not think has no thoughts to show."""
    request = canonical(frame(**fields))

    assert gemini_thinking(request, "gemini-2.5-pro") == config
    assert responses_reasoning(request) == reasoning


@pytest.mark.parametrize(("name", "model", "place"), sorted({entry[:3] for entry in TABLE}, key=str))
def test_an_empty_reasoning_asks_for_nothing(name: str, model: str, place: str | None) -> None:
    """It is the same as none, wherever the backend has its switch."""
    plain = body_of(name, model, chat(place))
    empty = replace(canonical(frame()), reasoning=NO_REASONING)

    assert body_of(name, model, chat(place), reasoning={}) == plain
    assert dialect(name, **chat(place)).encode(empty, model).body == plain


@pytest.mark.parametrize("model", MANUAL)
def test_an_answer_too_short_to_think_in_is_refused(model: str) -> None:
    """The gateway neither raises the client's limit nor leaves the thinking out."""
    assert refusal("anthropic", model, enable_thinking=True, **limited(1024)) == (
        f"enable_thinking: {model} thinks with 1024 tokens or more, limits.max_output_tokens must be above that, "
        "not 1024"
    )


@pytest.mark.parametrize("model", [*NEWER, *NEWEST])
def test_newer_models_decide_themselves_how_much_to_think(model: str) -> None:
    """From Claude 4.6 on it is `adaptive`, whose text is shown where it is asked for."""
    assert thinking(model, 10, enable_thinking=True) == {"type": "adaptive"}
    assert thinking(model, enable_thinking=True, include_reasoning=True) == {
        "type": "adaptive",
        "display": "summarized",
    }


def test_showing_does_not_switch_thinking_on() -> None:
    """`include_reasoning` alone is sent only to models that think anyway."""
    assert [thinking(model, include_reasoning=True) for model in [*MANUAL, *NEWER]] == [None] * 8
    assert {json.dumps(thinking(model, include_reasoning=True)) for model in NEWEST} == {
        '{"type": "adaptive", "display": "summarized"}'
    }


@pytest.mark.parametrize("model", [*MANUAL, *NEWER, *NEWEST, "smollm2"])
def test_thinking_is_switched_off_by_word_and_left_alone_by_default(model: str) -> None:
    """Missing means: the model's own way."""
    assert thinking(model, enable_thinking=False) == {"type": "disabled"}
    assert thinking(model) is None
