"""Names of Gemini's models, which become paths."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.encoding.gemini_models import whole_name
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
