"""Names in calls of earlier turns: those that a provider would refuse are mapped, the client's own stay."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.encoding.call_names import PastNames
from beluna_gateway.canonical import Tool

TOOLS = (Tool("f", None, {}), Tool("the.clients", None, {}), Tool("x" * 100, None, {}))


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("f", "f"),
        ("get_weather-2", "get_weather-2"),
        ("browser.tabs.open", "browser_tabs_open"),
        ("run shell <cmd>", "run_shell__cmd_"),
        ("é", "_"),
        ("f\n", "f_"),
        ("y" * 64, "y" * 64),
        ("y" * 65, "y" * 64),
        ("the.clients", "the.clients"),
        ("x" * 100, "x" * 100),
    ],
)
def test_a_name_that_no_tool_may_have_is_mapped(name: str, sent: str) -> None:
    """To 64 characters of `[a-zA-Z0-9_-]`, unless a tool of this request has it: that is for the provider to judge."""
    assert PastNames(TOOLS).sent(name) == sent
