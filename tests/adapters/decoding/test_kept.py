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

    with pytest.raises(GatewayError, match=r"20 bytes.*reliability\.max_event_bytes") as failure:
        kept.add(1)
    assert failure.value.kind == "protocol_violation"
