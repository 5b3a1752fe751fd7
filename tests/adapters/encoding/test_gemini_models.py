"""Names of Gemini's models, which become paths."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.encoding.gemini_models import wants_results_last, whole_name
from beluna_gateway.errors import GatewayError


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        ("gemini-2.5-pro", "models/gemini-2.5-pro"),
        ("models/gemini-2.5-pro", "models/gemini-2.5-pro"),
        ("tunedModels/mine", "tunedModels/mine"),
        ("Models/x", "models/Models/x"),
    ],
)
def test_a_model_is_named_by_its_path(model: str, whole: str) -> None:
    """The folder is added where the client left it out."""
    assert whole_name(model) == whole


@pytest.mark.parametrize("model", ["a..b", "a?b", "a&b", "models/../x", "models/x?key=1&y"])
def test_a_name_that_would_leave_its_place_in_the_path_is_refused(model: str) -> None:
    """It could ask for something else than a model, with the backend's key."""
    with pytest.raises(GatewayError) as failure:
        whole_name(model)

    assert failure.value.kind == "invalid_request"
    assert failure.value.message == f"model: '{model}' is no name of a Gemini model"


@pytest.mark.parametrize(
    ("model", "last"),
    [
        *((f"gemini-{name}", False) for name in ("2.5-flash", "3-pro-preview", "3-flash", "3.1-pro", "3.5-flash")),
        *((f"gemini-{name}", True) for name in ("3.5-flash-lite", "3.6-flash", "3.8-flash", "3.10-pro", "4-pro")),
        *((f"gemini-{name}", True) for name in ("10-pro", "latest", "flash-latest", "flash-lite-latest")),
        *(("models/gemini-3.7-flash", True), ("gemini-1.5-pro-latest", False), ("gemma-3.6", False), ("m", False)),
    ],
)
def test_later_models_want_results_last(model: str, last: bool) -> None:
    """What is known to refuse anything behind them."""
    assert wants_results_last(model) == last
