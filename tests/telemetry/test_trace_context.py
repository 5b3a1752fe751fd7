"""The caller's trace: what is taken, what the standard says to ignore, and what it becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from beluna_gateway.telemetry.trace_context import trace_context

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_is_taken():
    """Ids and flags are read; the two headers go on as they came."""
    found = trace_context({"traceparent": PARENT, "tracestate": "a=1,b=2", "team": "red"})

    assert found is not None
    assert (found.trace_id, found.span_id, found.flags) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, 1)
    assert found.headers == {"traceparent": PARENT, "tracestate": "a=1,b=2"}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT.upper(),
        PARENT + "-more",
        PARENT.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        PARENT + "\r\nX-Evil: yes",
    ],
)
def test_what_is_none_is_ignored(parent: str):
    """As the standard says: the trace begins anew, the request goes on."""
    assert trace_context({"traceparent": parent}) is None


@pytest.mark.parametrize("state", ["", "a=\n", "é=1", "x" * 513])
def test_a_state_that_cannot_go_on_is_left_out(state: str):
    """Line ends and other letters never reach a header."""
    found = trace_context({"traceparent": PARENT, "tracestate": state})

    assert found is not None
    assert found.headers == {"traceparent": PARENT}


@given(
    st.text("0123456789abcdefg-", max_size=80)
    | st.from_regex(
        r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-x)?\Z", alphabet=st.characters(codec="ascii")
    )
)
def test_it_is_what_opentelemetry_takes(parent: str):
    """The reference implementation reads the same ids, or none."""
    there = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": parent})).get_span_context()
    here = trace_context({"traceparent": parent})

    assert (here is None) is not there.is_valid
    assert here is None or (here.trace_id, here.span_id) == (there.trace_id, there.span_id)
