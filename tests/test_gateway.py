"""`AIGateway`: the way of a request, from its frame to its one end. Time is virtual. Attempts: test_attempts.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import structlog

from beluna_gateway.canonical import Completed, Failed, OutputTextDelta, Started, Usage, UsageStats
from beluna_gateway.config.settings import BackendProfile, Config
from beluna_gateway.errors import GatewayError
from beluna_gateway.gateway import MESSAGE_CHARACTERS, AIGateway
from beluna_gateway.telemetry.redaction import Redactor

from .fakes.adapter import END, SILENCE, Client, ScriptedAdapter, stage, text, transient
from .fakes.clock import virtual_time
from .fakes.config import backend, config

STARTED = Started("b", "m")
USER = {"role": "user", "parts": [{"text": {"text": "hello"}}]}


# --- the plain way -------------------------------------------------------------------------------------------


@virtual_time
async def test_an_answer():
    """`Started` first, then what the backend says, then one end."""
    async with stage(text("hel", "lo")) as played:
        assert await played.ask() == [STARTED, OutputTextDelta("hel"), OutputTextDelta("lo"), END]
        assert await played.ask(model="other") == [
            Started("b", "other"),
            OutputTextDelta("hel"),
            OutputTextDelta("lo"),
            END,
        ]


@virtual_time
async def test_the_request_reaches_the_adapter_complete():
    """The adapter is given the request, its model and the resolved credential."""
    async with stage(credential={"type": "inline_token", "token": "sk-1"}) as played:
        await played.ask(request_id="r7", stream=False)
    ((request, model, credential),) = played.adapter.prepared

    assert (request.request_id, request.stream, model, credential.secret) == ("r7", False, "m", "sk-1")


REFUSALS: list[tuple[dict[str, Any], dict[str, Any], str, str | None]] = [
    ({}, {"messages": []}, "invalid_request", None),
    ({}, {"backend_id": "c"}, "invalid_request", None),
    ({"credential": {"type": "env", "var": "NOT_THERE_AT_ALL"}}, {}, "authentication", "b"),
    ({}, {"output_mode": "json_object"}, "unsupported_capability", "b"),
    ({"budget": {"max_usage_tokens_per_request": 5}}, {"limits": {"max_output_tokens": 6}}, "budget_exceeded", "b"),
]


@pytest.mark.parametrize(("keys", "fields", "kind", "backend_id"), REFUSALS, ids=lambda value: str(value)[:30])
def test_a_request_that_is_refused_before_dispatch(keys: Any, fields: Any, kind: str, backend_id: str | None):
    """`Failed` alone, nothing is sent, and the backend that had been chosen is named."""

    @virtual_time
    async def run() -> None:
        async with stage(**keys) as played:
            played.adapter.capabilities = played.adapter.capabilities.model_copy(update={"json_mode": False})
            before, error = await played.failure(**fields)

            assert (before, error.kind, error.retryable, error.backend_id) == ([], kind, False, backend_id)
            assert played.adapter.begun == 0

    run()


@virtual_time
async def test_what_the_dialect_has_no_place_for():
    """The adapter's own refusal is `Failed` alone, too."""
    async with stage(refusal=GatewayError("unsupported_capability", "sampling.seed: no place")) as played:
        before, error = await played.failure()

        assert (before, error.message, error.backend_id) == ([], "sampling.seed: no place", "b")


@virtual_time
async def test_errors_are_presentable():
    """Secrets go first, then the message is cut to its length; the provider's code is looked through as well."""
    redactor = Redactor()
    redactor.learn("sk-secret")
    message = "x" * (MESSAGE_CHARACTERS - 4) + "sk-secret"
    async with stage(
        [GatewayError("backend_permanent", message, provider_code="sk-secret")], redactor=redactor
    ) as played:
        _, error = await played.failure()

        assert error.message == "x" * (MESSAGE_CHARACTERS - 4) + "<red"
        assert (error.provider_code, error.backend_id) == ("<redacted>", "b")


@pytest.mark.parametrize(
    "script", [[ValueError("a bug")], [TimeoutError()], [], [OutputTextDelta("a")], [END, END], [[END, END]]], ids=str
)
def test_a_bug_of_a_dialect_still_has_one_end(script: list[Any]):
    """An exception, a missing end or two of them: the client gets exactly one end, and the place is free again."""

    @virtual_time
    async def run() -> None:
        async with stage(script) as played:
            events = await played.ask()

            assert [type(event) for event in events].count(Completed) + len(
                [event for event in events if isinstance(event, Failed)]
            ) == 1
            assert isinstance(events[-1], Completed | Failed)
            if isinstance(events[-1], Failed):
                assert (events[-1].error.kind, events[-1].error.retryable) == ("internal", False)

    run()


@virtual_time
async def test_an_error_that_no_line_could_hold_is_told():
    """Halves of surrogate pairs, as of a file name that is no UTF-8, are escapes in a message."""
    async with stage([GatewayError("backend_permanent", "no \udcff")]) as played:
        (failed,) = (event for event in await played.ask() if isinstance(event, Failed))

    assert failed.error.message == r"no \udcff"


# --- cancelling ----------------------------------------------------------------------------------------------

LONG_WAY: list[Any] = [transient(retry_after_ms=300)]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("turns", range(14))
def test_a_cancel_at_any_moment_frees_everything(turns: int, twice: bool):
    """Queued, starting, connecting, answering, waiting for the next attempt: after the cancel all is as before."""

    @virtual_time
    async def run() -> None:
        budget = {"max_concurrency_per_backend": 1}
        async with stage(LONG_WAY, [OutputTextDelta("a"), SILENCE], budget=budget) as played:
            client, second = Client(), Client()
            tasks = [played.begin(client), played.begin(second)]
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns > 10:
                await asyncio.sleep(1)
            for task in tasks:
                task.cancel()
                if twice:
                    await asyncio.sleep(0)
                    task.cancel()
            await asyncio.wait(tasks)

            assert all(task.cancelled() for task in tasks)
            assert not any(isinstance(event, Completed | Failed) for event in client.events + second.events)
            played.assert_free()
            played.adapter.attempts = [text("ok")]
            assert (await played.ask())[-1] == END

    run()


@virtual_time
async def test_a_cancel_proves_nothing():
    """Cancelled requests are no failures of the backend, however many they are."""
    async with stage([SILENCE], reliability={"breaker_failure_threshold": 1}) as played:
        for _ in range(3):
            task = played.begin(Client())
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task])

        assert (played.backend.breaker.state, played.backend.failures) == ("closed", 0)
        assert [record.outcome for record in played.records] == ["cancelled"] * 3


# --- usage, and what remains ---------------------------------------------------------------------------------


@virtual_time
async def test_usage_is_priced_and_accounted():
    """The client sees the cost, the budget counts the tokens, and a request above its limit is not stopped."""
    keys: Any = {"pricing": {"m": {"input_per_mtok": 1e6, "output_per_mtok": 0}}}
    keys["budget"] = {"max_usage_tokens_per_request": 1}
    async with stage([OutputTextDelta("a"), Usage(UsageStats(3, 4, 7)), END], **keys) as played:
        events = await played.ask()
        unpriced = await played.ask(model="other")

        assert events[2] == Usage(UsageStats(3, 4, 7, cost=3.0))
        assert unpriced[2] == Usage(UsageStats(3, 4, 7))
        status = played.gateway.status()[0]
        assert (status["used_tokens"], status["output_tokens"], status["cost_usd"]) == (14, 8, 3.0)


@pytest.mark.parametrize(
    ("own", "configured", "cost"),
    [(None, None, 0.018), (0.5, None, 0.5), (0.5, 2.0, 0.002), (None, 2.0, 0.002)],
)
async def test_the_cost_is_ours_else_the_providers_else_the_lists(own: Any, configured: Any, cost: float):
    """A configured price wins; what the provider names itself is truer than any list."""
    model = "claude-sonnet-4-5"
    prices: Any = {} if configured is None else {model: {"input_per_mtok": configured, "output_per_mtok": 0}}
    keys: Any = {"pricing": prices, "endpoint": "https://api.anthropic.com"}
    reported = UsageStats(1_000, 1_000, 2_000, cost=own)
    async with stage([OutputTextDelta("a"), Usage(reported), END], **keys) as played:
        events = await played.ask(model=model)

    (usage,) = [event.usage for event in events if isinstance(event, Usage)]
    assert usage == replace(reported, cost=usage.cost)
    assert usage.cost == pytest.approx(cost)


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ({}, False),
        ({"capabilities": {"resumable_streaming": False}}, False),
        ({"capabilities": {"resumable_streaming": True}}, True),
        ({"reliability": {"retry_policy": "adapter_resumable"}}, True),
    ],
    ids=str,
)
def test_what_is_without_effect_is_said(keys: dict[str, Any], warned: bool):
    """No dialect can resume a stream: whoever asks for it is told so in the log, and nothing else changes."""

    @virtual_time
    async def run() -> None:
        with structlog.testing.capture_logs() as logged:
            async with stage([OutputTextDelta("a"), transient()], **keys) as played:
                _, error = await played.failure()

        assert (error.kind, played.adapter.begun) == ("backend_transient", 1)
        assert [line["backend_id"] for line in logged if "without effect" in line["event"]] == ["b"] * warned

    run()


@pytest.mark.parametrize(
    ("sections", "chat", "said"),
    [
        ({"cortex": {}, "logging": {}}, {"chat": {}}, "logging, cortex, ai_gateway.chat"),
        ({"spine": {"adapters": []}}, {}, "spine"),
        ({}, {}, None),
    ],
)
def test_cores_sections_are_named_in_one_line(sections: dict[str, Any], chat: dict[str, Any], said: str | None):
    """What stands in the file for Beluna core's sake is said once to be without effect."""

    @virtual_time
    async def run() -> None:
        parsed = Config.model_validate(config(gateway=chat, **sections))
        with structlog.testing.capture_logs() as logged:
            async with AIGateway(parsed, adapters={"ollama": lambda _profile: ScriptedAdapter([])}):
                pass

        assert [line["settings"] for line in logged if "for Beluna core" in line["event"]] == [said] * (
            said is not None
        )

    run()


@virtual_time
async def test_a_request_by_an_alias():
    """`route` gives backend and model, in both of core's forms; beside `backend_id` or `model` it is refused."""
    alias = {"kind": "alias", "capability": "chat", "alias": " low-cost "}
    key = {"kind": "key", "capability": "chat", "binding_id": "low-cost"}
    async with stage(text("ok"), models=[{"id": "small", "aliases": ["low-cost"]}]) as played:
        for route in (alias, key):
            assert (await played.ask(route=route))[0] == Started("b", "small")
        for beside in ({"backend_id": "b"}, {"model": "small"}, {"backend_id": "b", "model": "small"}):
            before, error = await played.failure(route=alias, **beside)

            assert (before, error.kind) == ([], "invalid_request")
            assert error.message == "route: not together with backend_id or model"


@virtual_time
async def test_thinking_switched_off_where_there_is_none():
    """The adapter of a backend that cannot reason is not asked to switch it off."""
    async with stage(capabilities={"reasoning": False}) as played:
        played.adapter.capabilities = played.adapter.capabilities.model_copy(update={"reasoning": False})
        await played.ask(enable_thinking=False)
    ((request, _, _),) = played.adapter.prepared

    assert request.enable_thinking is None


@virtual_time
async def test_status_and_close():
    """What a backend looks like from outside; and that leaving the gateway closes what was made."""
    async with stage([SILENCE], budget={"max_concurrency_per_backend": 1}) as played:
        unused = played.gateway.status()
        assert not played.backend.has_adapter
        tasks = [played.begin(Client()) for _ in range(3)]
        await asyncio.sleep(1)
        (seen,) = played.gateway.status()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

        assert (unused[0]["requests"], unused[0]["in_flight"]) == (0, 0)
        assert seen == {
            "id": "b",
            "dialect": "ollama",
            "default_model": "m",
            "in_flight": 1,
            "max_concurrency": 1,
            "queued": 2,
            "breaker": "closed",
            "requests": 3,
            "failures": 0,
            "used_tokens": 0,
            "output_tokens": 0,
            "cost_usd": 0.0,
        }
        assert played.adapter.closed == 0
    assert played.adapter.closed == 1


@pytest.mark.parametrize("launch", [None, {"command": "server"}], ids=str)
def test_what_is_started_before_the_first_request(launch: Any):
    """The default backend and those that bring a model server are made ready; the others wait for a request."""

    @virtual_time
    async def run() -> None:
        made: list[str] = []

        def make(profile: BackendProfile) -> ScriptedAdapter:
            made.append(profile.id)
            return ScriptedAdapter([])

        parsed = Config.model_validate(config(backend(), backend(id="c", launch=launch), backend(id="d")))
        async with AIGateway(parsed, adapters={"ollama": make}) as gateway:
            await gateway.start()

        assert made == (["b"] if launch is None else ["b", "c"])

    run()
