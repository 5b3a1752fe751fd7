"""Counts of what no frame carries."""

from __future__ import annotations

from beluna_gateway.adapters.decoding.not_carried import MAX_KINDS, NotCarried


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
