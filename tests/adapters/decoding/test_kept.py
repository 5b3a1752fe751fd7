"""The bound on what is kept of one answer."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.decoding.kept import KeptBytes
from beluna_gateway.errors import GatewayError


def test_up_to_the_limit_everything_is_kept():
    """One byte more is a protocol violation that names the setting; values count as the JSON that they are."""
    kept = KeptBytes(20)
    kept.add(10)
    kept.add_value({"a": "é"})  # 10 bytes

    with pytest.raises(GatewayError) as failure:
        kept.add(1)
    assert (failure.value.kind, failure.value.message) == (
        "protocol_violation",
        "the backend sent more than 20 bytes to be kept until the answer's end (reliability.max_event_bytes)",
    )
