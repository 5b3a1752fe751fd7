"""The caller's trace in a request's `metadata`: `traceparent` and `tracestate` (W3C Trace Context, level 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MAX_STATE_CHARACTERS = 512
"""The longest `tracestate` that has to be passed on (section 3.3.1.5)."""

# Section 3.2: a later version may append fields after another dash; `ff` is none.
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?")
_STATE = re.compile(r"[ -~]*")


class TraceContext(NamedTuple):
    """What the caller says of its span."""

    parent: str
    """`traceparent` as it came."""
    state: str
    """`tracestate`; empty where there is none that can be passed on."""
    trace_id: int
    span_id: int
    flags: int

    @property
    def headers(self) -> dict[str, str]:
        """The two as HTTP headers."""
        return {"traceparent": self.parent} | ({"tracestate": self.state} if self.state else {})


def trace_context(metadata: Mapping[str, str]) -> TraceContext | None:
    """The caller's trace; None where there is none, or one that the standard says to ignore."""
    parent = metadata.get("traceparent")
    found = None if parent is None else _PARENT.fullmatch(parent)
    if parent is None or found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if not int(trace_id, 16) or not int(span_id, 16) or (more and version == "00"):
        return None
    state = metadata.get("tracestate", "")
    if len(state) > MAX_STATE_CHARACTERS or not _STATE.fullmatch(state):
        state = ""
    return TraceContext(parent, state, int(trace_id, 16), int(span_id, 16), int(flags, 16))
