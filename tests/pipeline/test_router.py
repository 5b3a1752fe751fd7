"""`BackendRouter`: one backend, and never another one than named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.canonical import CanonicalRequest
from beluna_gateway.config.settings import BackendProfile, Config, profiles
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.router import BackendRouter


def configured(*ids: str) -> dict[str, BackendProfile]:
    backends: list[dict[str, Any]] = [
        {"id": name, "dialect": "ollama", "credential": {"type": "none"}, "default_model": f"model of {name}"}
        for name in ids
    ]
    config = Config.model_validate({"ai_gateway": {"default_backend": ids[0], "backends": backends}})
    return profiles(config, Path())


PROFILES = configured("first", "second", "")


def request(backend: str | None = None, model: str | None = None) -> CanonicalRequest:
    return CanonicalRequest("r1", (), backend_hint=backend, model=model)


def test_a_request_that_names_no_backend_goes_to_the_default_one():
    """Without `backend_id` the configured default serves, with its own default model."""
    selected = BackendRouter(PROFILES, "second").select(request())

    assert (selected.profile.id, selected.model) == ("second", "model of second")


def test_the_named_backend_serves():
    """`backend_id` decides, and `model` stands above the backend's default."""
    selected = BackendRouter(PROFILES, "second").select(request("first", "m"))

    assert (selected.profile, selected.model) == (PROFILES["first"], "m")


def test_an_empty_name_is_a_name():
    """A backend may be called anything, and "" is not the same as none."""
    assert BackendRouter(PROFILES, "first").select(request("")).profile.id == ""
    with pytest.raises(GatewayError):
        BackendRouter(configured("first"), "first").select(request(""))


@given(st.text())
def test_an_unknown_backend_is_refused(name: str):
    """A request for a backend that is not configured fails, naming those that are; no other backend is tried."""
    if name in PROFILES:
        return
    with pytest.raises(GatewayError) as caught:
        BackendRouter(PROFILES, "first").select(request(name))

    assert caught.value.kind == "invalid_request"
    assert repr(name) in caught.value.message
    assert "'first', 'second'" in caught.value.message
