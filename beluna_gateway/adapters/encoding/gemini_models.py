"""Names of Gemini's models, which stand in the paths of its API."""

from __future__ import annotations

from ...errors import invalid_request, quoted


def whole_name(model: str) -> str:
    """`models/NAME`, however the client wrote it.

    Raises:
        GatewayError: `invalid_request`, where it is no name of a model; google.genai.models refuses the same.
    """
    if ".." in model or "?" in model or "&" in model:
        raise invalid_request(f"model: {quoted(model)} is no name of a Gemini model")
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
