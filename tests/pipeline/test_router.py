"""`BackendRouter`: one backend, and never another one than named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.canonical import CanonicalRequest
from beluna_gateway.config.settings import BackendProfile, Config, Target, profiles
from beluna_gateway.errors import GatewayError, quoted
from beluna_gateway.pipeline.router import BackendRouter


def configured(*ids: str) -> dict[str, BackendProfile]:
    backends: list[dict[str, Any]] = [
        {"id": name, "dialect": "ollama", "credential": {"type": "none"}, "default_model": f"model of {name}"}
        for name in ids
    ]
    config = Config.model_validate({"ai_gateway": {"default_backend": ids[0], "backends": backends}})
    return profiles(config, Path())


PROFILES = configured("first", "second", "")


ALIASES = {"default": Target("second", "large"), "low-cost": Target("first", "small")}


def request(backend: str | None = None, model: str | None = None, route: str | None = None) -> CanonicalRequest:
    return CanonicalRequest("r1", (), backend_hint=backend, model=model, route=route)


def chosen(router: BackendRouter, asked: CanonicalRequest) -> tuple[str, str]:
    selected = router.select(asked)
    return selected.profile.id, selected.model


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


@pytest.mark.parametrize("default", ["first", None])
def test_an_alias_gives_backend_and_model(default: str | None):
    """`route` decides alone, whatever the default is."""
    router = BackendRouter(PROFILES, default, ALIASES)

    assert chosen(router, request(route="low-cost")) == ("first", "small")
    assert chosen(router, request(route="default")) == ("second", "large")


def test_without_a_default_backend_the_alias_default_serves():
    """It gives what a request leaves open; a named backend still has its own default model."""
    router = BackendRouter(PROFILES, None, ALIASES)

    assert router.default_backend == "second"
    assert chosen(router, request()) == ("second", "large")
    assert chosen(router, request(model="m")) == ("second", "m")
    assert chosen(router, request("second")) == ("second", "model of second")


def test_the_default_backend_stands_above_the_alias_default():
    """Where both are configured, requests that name nothing go to the default backend and its default model."""
    router = BackendRouter(PROFILES, "first", ALIASES)

    assert (router.default_backend, chosen(router, request())) == ("first", ("first", "model of first"))


@pytest.mark.parametrize(
    ("aliases", "known"),
    [(ALIASES, "configured are 'default', 'low-cost'"), ({}, "none is configured")],
    ids=["some", "none"],
)
@pytest.mark.parametrize("name", ["first", "Default", "", "small"])
def test_an_unknown_alias_is_refused(name: str, aliases: dict[str, Target], known: str):
    """Only aliases are looked up, exactly; the refusal names those that there are."""
    with pytest.raises(GatewayError) as caught:
        BackendRouter(PROFILES, "first", aliases).select(request(route=name))

    assert caught.value.kind == "invalid_request"
    assert caught.value.message == f"route: {name!r} is no alias of a model; {known}"


@given(st.text())
def test_an_unknown_backend_is_refused(name: str):
    """A request for a backend that is not configured fails, naming those that are; no other backend is tried."""
    if name in PROFILES:
        return
    with pytest.raises(GatewayError) as caught:
        BackendRouter(PROFILES, "first").select(request(name))

    assert caught.value.kind == "invalid_request"
    assert quoted(name) in caught.value.message
    assert "'first', 'second'" in caught.value.message
