"""Counts of what no frame carries."""

from __future__ import annotations

from beluna_gateway.adapters.decoding.not_carried import MAX_KINDS, NotCarried, client_action


def test_counts_by_kind():
    """Each kind is counted on its own; nothing counted is nothing said."""
    counts = NotCarried()
    assert counts.metadata() == {}
    counts.add("citations", 2)
    counts.add("image")
    counts.add("citations")
    counts.add("logprobs", 0)

    assert counts.metadata() == {"not_carried": {"citations": 3, "image": 1}}


def test_the_kinds_are_bounded():
    """However many kinds a backend invents, what is kept has an end."""
    counts = NotCarried()
    for number in range(1000):
        counts.add(f"kind {number} " + "x" * 1000)
    kept = counts.metadata()["not_carried"]

    assert isinstance(kept, dict)
    assert len(kept) == MAX_KINDS + 1
    assert kept["other"] == 1000 - MAX_KINDS
    assert max(map(len, kept)) <= 64


def test_what_is_repeated_in_each_event_is_counted_once():
    """The largest number counts."""
    counts = NotCarried()
    for number in (1, 3, 2, 0):
        counts.at_least("citations", number)
    counts.add("citations")
    counts.at_least("logprobs", 0)
    counts.at_least("image")

    assert counts.metadata() == {"not_carried": {"citations": 4, "image": 1}}


def test_a_call_that_no_frame_carries_is_refused_by_its_name():
    """However long a backend makes its names."""
    error = client_action("custom_tool_call", "apply")
    long = client_action("x" * 1000, "y" * 1000)

    assert error.kind == "unsupported_capability"
    assert "'custom_tool_call' ('apply'), which waits" in error.message
    assert "'custom_tool_call', which waits" in client_action("custom_tool_call").message
    assert error.message.endswith("no frame can carry it")
    assert len(long.message) < 400
