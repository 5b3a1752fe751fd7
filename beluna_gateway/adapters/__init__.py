"""Dialect → what makes its adapter: the one table. Its keys are exactly the dialects that `config.settings` accepts.

Modules are imported when a backend of theirs is first used, so that nobody waits for dialects that are not configured.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..config.settings import BackendProfile
from .base import BackendAdapter, HttpDialect

_HTTP_DIALECTS = {
    "openai_compatible": ("openai_compatible", "OpenAICompatibleDialect"),
    "openai_responses": ("openai_responses", "OpenAIResponsesDialect"),
    "anthropic": ("anthropic", "AnthropicDialect"),
    "gemini": ("gemini", "GeminiDialect"),
    "ollama": ("ollama", "OllamaDialect"),
}


def http_dialect(profile: BackendProfile) -> HttpDialect:
    """The pure halves for a backend of an HTTP dialect."""
    module, name = _HTTP_DIALECTS[profile.backend.dialect]
    dialect: HttpDialect = getattr(import_module(f".dialects.{module}", __name__), name)(profile)
    return dialect


def _http(profile: BackendProfile) -> BackendAdapter:
    from .http.adapter import HttpAdapter

    return HttpAdapter(http_dialect(profile))


def _github_copilot(profile: BackendProfile) -> BackendAdapter:
    from .copilot.adapter import GitHubCopilotAdapter

    return GitHubCopilotAdapter(profile)


ADAPTERS: dict[str, Callable[[BackendProfile], BackendAdapter]] = {
    **dict.fromkeys(_HTTP_DIALECTS, _http),
    "github_copilot_sdk": _github_copilot,
}
