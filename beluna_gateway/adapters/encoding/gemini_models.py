"""Names of Gemini's models, which stand in the paths of its API, and what is read from them."""

from __future__ import annotations

import re

from ...errors import invalid_request, quoted


def whole_name(model: str) -> str:
    """`models/NAME`, however the client wrote it.

    Raises:
        GatewayError: `invalid_request`, where it is no name of a model; google.genai.models refuses the same.
    """
    if ".." in model or "?" in model or "&" in model:
        raise invalid_request(f"model: {quoted(model)} is no name of a Gemini model")
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"


_RESULTS_LAST = re.compile(r"gemini-(?:3\.(?:[6-9]|\d\d)|3\.5-flash-lite|[4-9]|\d\d|(?:[a-z-]+-)?latest\b)")


def wants_results_last(model: str) -> bool:
    """Whether the model refuses a user's turn in which something follows the results: from 3.6 on, and 3.5 Flash-Lite.

    HTTP 400 "Requests ending with a model turn are not supported" (agentgateway #2811, kimi-code #3274). Text before
    the results is accepted by every model (google/oss-rebuild #1559).
    """
    return _RESULTS_LAST.search(model) is not None
