"""Names of tools in calls of earlier turns, for providers that refuse some of them.

A model may call a tool that nobody offered, under a name that no tool may have (`browser.tabs.open`,
`multi_tool_use.parallel`). The client answers that there is no such tool, and the call stays in the history, which the
provider would refuse from then on:

- Chat Completions and Responses: "string does not match pattern. Expected a string that matches the pattern
  '^[a-zA-Z0-9_-]+$'" (mcp-use #90, hermes-agent #51944 and #95021);
- Mistral: "must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64" (mistral-common);
- Anthropic: "tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'", now 128; Bedrock has 64 (opencode
  #48750).

These pair a result with its call by its id, so the name may change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...canonical import Tool

_ALLOWED = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_-]")


class PastNames:
    """The names of past calls in one request, as they are sent.

    Args:
        tools: Those of the request. Their names are the client's, whatever they are.
    """

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = tools
        self._own: frozenset[str] | None = None

    def sent(self, name: str) -> str:
        """`name` where the provider takes it, or something like it."""
        if _ALLOWED.fullmatch(name):
            return name
        if self._own is None:
            self._own = frozenset([tool.name for tool in self._tools])
        return name if name in self._own else _FORBIDDEN.sub("_", name[:64])
