"""The error table: what happened at the backend, and which error the client is told."""

from __future__ import annotations

import asyncio
import json
from email.utils import formatdate
from time import time

import pytest

from tests.fakes.answers import (
    BAD_CHUNK,
    CUT,
    DONE,
    RESET,
    answers,
    delta,
    event,
    fails,
    finish,
    hang_up,
    plays,
    reset,
    text,
    tool_delta,
    whole,
)
from tests.fakes.client import said

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {},
    "small": {"reliability": {"max_event_bytes": 2000}},
    "refused": {"endpoint": "http://127.0.0.1:9/v1"},
    "unknown": {"endpoint": "http://nothing.invalid/v1"},
    "unspeakable": {"endpoint": f"http://{'x' * 70}.invalid/v1"},
    "no-socket": {"endpoint": "unix:/nonexistent/socket"},
    "local": {"endpoint": "unix:{unix}:/local"},
}


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (300, "backend_permanent", False),
        (308, "backend_permanent", False),
        (400, "invalid_request", False),
        (401, "authentication", False),
        (402, "backend_permanent", False),
        (403, "authorization", False),
        (404, "invalid_request", False),
        (405, "invalid_request", False),
        (406, "backend_permanent", False),
        (408, "timeout", True),
        (409, "backend_transient", True),
        (410, "backend_permanent", False),
        (413, "invalid_request", False),
        (415, "invalid_request", False),
        (418, "backend_permanent", False),
        (422, "invalid_request", False),
        (425, "backend_transient", True),
        (429, "rate_limited", True),
        (451, "backend_permanent", False),
        (500, "backend_transient", True),
        (501, "backend_transient", True),
        (502, "backend_transient", True),
        (503, "backend_transient", True),
        (504, "backend_transient", True),
        (529, "backend_transient", True),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_http_status(stage, status, kind, retryable, stream):
    """The status decides the kind; the provider's code and text are carried beside it."""
    client = await stage.client()
    stage.backend.on("b", fails(status, "the_code", "the text"))
    await client.infer("b", stream=stream)

    assert (await client.expect("started", "r"))["backend_id"] == "b"
    error = await client.expect_failed(kind)

    assert error["retryable"] is retryable
    assert (error["backend_id"], error["provider_http_status"]) == ("b", status)
    assert error["provider_code"] == "the_code"
    assert "the text" in error["message"]
    assert "retry_after_ms" not in error


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
async def test_a_spent_quota_is_not_retryable(stage, code):
    """A 429 whose code says that the quota is spent does not pass by waiting."""
    client = await stage.client()
    stage.backend.on("b", fails(429, code))
    await client.infer("b")

    assert (await client.expect_failed("rate_limited"))["retryable"] is False


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "word", "type": "kind"}, "word"),
        ({"code": 7, "type": "kind"}, "kind"),
        ({"code": "7", "type": None, "status": "STATUS"}, "STATUS"),
        ({"code": "7"}, "7"),
        ({"code": 7}, "7"),
        ({"code": None}, None),
    ],
    ids=json.dumps,
)
async def test_provider_code(stage, error, code):
    """The first of `code`, `type`, `status` that is a word rather than a number, else the number."""
    client = await stage.client()
    stage.backend.on("b", answers(400, {"error": {"message": "m", **error}}))
    await client.infer("b")

    assert (await client.expect_failed("invalid_request"))["provider_code"] == code


async def test_a_long_message_is_cut(stage):
    """At most 2,000 characters of a message."""
    client = await stage.client()
    stage.backend.on("b", fails(400, message="é" * 9000))
    await client.infer("b")

    assert len((await client.expect_failed("invalid_request"))["message"]) == 2000


async def test_a_body_that_is_no_json_is_told_as_it_is(stage):
    """A proxy's HTML page is better than nothing."""
    client = await stage.client()
    stage.backend.on("b", answers(502, b"<html>bad gateway \xff</html>"))
    await client.infer("b")

    assert "bad gateway" in (await client.expect_failed("backend_transient"))["message"]


@pytest.mark.parametrize("end", [RESET, CUT, BAD_CHUNK, 10.0], ids=["reset", "cut", "bad-chunk", "stuck"])
async def test_the_status_counts_although_its_body_breaks(stage, end):
    """A 401 is `authentication`, at once, whatever becomes of its body."""
    client = await stage.client()
    stage.backend.on("b", plays(b'{"error":{"mess', end, status=401))
    await client.infer("b")

    error = await client.expect_failed("authentication", patience=4)

    assert (error["provider_http_status"], error["retryable"]) == (401, False)


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"Retry_After": "7"}, 7000, 7000),
        ({"retry_after_ms": "1234"}, 1234, 1234),
        ({"x_ms_retry_after_ms": "1234.5"}, 1235, 1235),
        ({"retry_after_ms": "0", "Retry_After": "1"}, 1000, 1000),
        ({"retry_after_ms": "9000", "x_ms_retry_after_ms": "10000", "Retry_After": "1"}, 10_000, 10_000),
        ({"Retry_After": 600}, 500_000, 601_000),
        ({"Retry_After": formatdate(0, usegmt=True)}, 0, 0),
    ],
    ids=["seconds", "ms", "x-ms", "longest", "longest-x-ms", "date", "past"],
)
async def test_retry_after_is_told(stage, headers, low, high):
    """Where the backend said when to come back, the client is told, in milliseconds."""
    client = await stage.client()
    named = {
        name: value if isinstance(value, str) else formatdate(time() + value, usegmt=True)  # a date, from now
        for name, value in headers.items()
    }
    stage.backend.on("b", fails(429, **named))
    await client.infer("b")

    assert low <= (await client.expect_failed("rate_limited"))["retry_after_ms"] <= high


@pytest.mark.parametrize("header", ["Retry_After", "retry_after_ms", "x_ms_retry_after_ms"])
@pytest.mark.parametrize(
    "value", ["soon", "-1", "", "1e3", "9" * 400, "9" * 5000, "²", "Wed, 99 Nov 2999 99:99:99 GMT"]
)
async def test_an_unreadable_wait_is_none(stage, header, value):
    """Nonsense in a header, or a number larger than 2^53-1, is no reason to fail otherwise."""
    client = await stage.client()
    stage.backend.on("b", fails(400, **{header: value}))
    await client.infer("b")

    assert "retry_after_ms" not in await client.expect_failed("invalid_request")


async def test_a_code_of_5000_digits_hides_no_text(stage):
    """A number that no integer type holds hides nothing of what the backend says beside it, and is no crash."""
    client = await stage.client()
    stage.backend.on("b", answers(400, b'{"error":{"code":%b,"message":"m"}}' % (b"9" * 5000)))
    await client.infer("b")

    assert (await client.expect_failed("invalid_request"))["message"] == "the backend answered HTTP 400: m"


@pytest.mark.parametrize("backend_id", ["refused", "unknown", "unspeakable", "no-socket"])
async def test_no_connection(stage, backend_id):
    """Refused, unreachable and unknown are transient, and the message says where."""
    client = await stage.client()
    await client.infer(backend_id)

    error = await client.expect_failed("backend_transient")

    assert error["retryable"] is True
    assert error["provider_http_status"] is None


@pytest.mark.parametrize("script", [hang_up, reset], ids=["eof", "reset"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_no_answer_at_all(stage, script, stream):
    """A connection that ends before the status line is transient."""
    client = await stage.client()
    stage.backend.on("b", script)
    await client.infer("b", stream=stream)

    assert (await client.expect_failed("backend_transient"))["retryable"] is True


@pytest.mark.parametrize(
    "answer",
    [
        plays(delta("a"), b"data: no json\n\n", finish()),
        plays(delta("a"), b"data: [1]\n\n", finish()),
        plays(delta("a"), b'data: {"choices":1}\n\n', finish()),
        plays(delta("a"), b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n', finish()),
        plays(tool_delta(0, "[]", call_id="1", name="look"), finish("tool_calls"), DONE),
        plays(delta("a"), finish(), DONE, headers={"Content-Encoding": "gzip"}),
    ],
    ids=["no-json", "no-object", "no-choices", "nan", "arguments", "compressed"],
)
async def test_what_is_not_the_dialect_is_a_violation(stage, answer):
    """A body or event that is not what the dialect says ends the answer."""
    client = await stage.client()
    stage.backend.on("b", answer)
    await client.infer("b")

    assert (await client.expect_failed("protocol_violation"))["retryable"] is False


@pytest.mark.parametrize(
    "raw",
    [
        b"HELLO\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"SSH-2.0-server\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_violation(stage, raw):
    """A server that speaks something else."""
    client = await stage.client()

    async def script(exchange):
        await exchange.raw(raw)
        await exchange.silence()

    stage.backend.on("b", script)
    await client.infer("b")

    assert (await client.expect_failed("protocol_violation"))["retryable"] is False


@pytest.mark.parametrize("stream", [True, False], ids=["event", "body"])
async def test_more_than_max_event_bytes_is_a_violation(stage, stream):
    """One event, or an unstreamed body, that is too large is refused as soon as that is known."""
    client = await stage.client()

    async def script(exchange):
        await exchange.head()
        while True:
            await exchange.send((b"data: " if not exchange.sent else b"") + b"x" * 500)
            await asyncio.sleep(0)

    stage.backend.on("small", script)
    await client.infer("small", stream=stream)

    assert "max_event_bytes" in (await client.expect_failed("protocol_violation"))["message"]
    await (await stage.backend.request("small")).closed()


async def test_many_small_events_are_not_one_large_one(stage):
    """The bound is on one event, not on the answer."""
    client = await stage.client()
    stage.backend.on("small", plays(*[delta("x" * 100)] * 100, finish(), DONE))
    await client.infer("small")

    assert said(await client.answer()) == "x" * 10_000


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        ({"message": "m"}, "backend_transient", True),
        ({"message": "m", "code": "rate_limit_exceeded"}, "rate_limited", True),
        ({"message": "m", "code": "invalid_api_key"}, "authentication", False),
        ({"message": "m", "code": 503}, "backend_transient", True),
        ({"message": "m", "type": "invalid_request_error"}, "invalid_request", False),
        ({"message": "m", "type": "never_heard_of"}, "backend_transient", True),
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("before", [b"", delta("some")], ids=["first", "after-text"])
async def test_an_error_inside_a_stream(stage, error, kind, retryable, before):
    """By its code, as the HTTP status it stands for; nothing after it is heard."""
    client = await stage.client()
    stage.backend.on("b", plays(before + event({"error": error}) + delta("never") + finish() + DONE))
    await client.infer("b")

    frames = await client.answer()

    assert said(frames) == ("some" if before else "")
    assert (frames[-1]["error"]["kind"], frames[-1]["error"]["retryable"]) == (kind, retryable)
    await client.expect_nothing(0.02)


async def test_what_the_provider_reports_itself_is_told_as_it_is(stage):
    """An error at the very beginning of a stream keeps its wait, and its text is not followed by a quotation."""
    client = await stage.client()
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}
    stage.backend.on("b", plays(event({"error": {"message": "m", "code": 429, "details": [info]}})))
    await client.infer("b")

    error = await client.expect_failed("rate_limited")
    assert error["retry_after_ms"] == 17_000
    assert error["message"].endswith(": m")


async def test_redirects_are_not_followed(stage):
    """A redirect is an error, and the credential goes nowhere else."""
    client = await stage.client()
    elsewhere = stage.backend.url("small") + "/chat/completions"
    stage.backend.on("small", text("stolen"))
    stage.backend.on("b", fails(307, Location=elsewhere))
    await client.infer("b")

    assert (await client.expect_failed("backend_permanent"))["provider_http_status"] == 307
    assert stage.backend.requests("small") == []


async def test_a_json_answer_with_status_200_to_a_streamed_request(stage):
    """A server that does not stream is understood, and so is its error with status 200."""
    client = await stage.client()
    stage.backend.on(
        "b", whole("all at once"), answers(200, {"error": {"message": "no", "code": "rate_limit_exceeded"}})
    )
    await client.infer("b")
    assert said(await client.answer()) == "all at once"

    await client.infer("b")
    assert (await client.expect_failed("rate_limited"))["message"].endswith("no")


async def test_a_backend_on_a_unix_socket(stage):
    """`unix:` reaches a server on a socket file, with a path on it where one is given."""
    client = await stage.client()
    stage.backend.on("local", text("near"))
    await client.infer("local")

    assert said(await client.answer()) == "near"
    assert stage.backend.requests("local")[0].target == "/local/chat/completions"
