"""beluna-gateway: the one place through which every model call of Beluna goes.

The public names of the library are imported from here. Each is loaded when it is first used, so that
`beluna-gateway --version` loads none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .canonical import (
        Annotation,
        Completed,
        Failed,
        OutputTextDelta,
        ReasoningDelta,
        Started,
        ToolCallDelta,
        ToolCallReady,
        Usage,
    )
    from .client import connect
    from .config import load_config
    from .errors import GatewayError
    from .event_stream import InferenceResult
    from .gateway import AIGateway
    from .requests import CountTokensRequest, EmbedRequest, InferRequest, ModelsRequest

__all__ = [
    "AIGateway",
    "Annotation",
    "Completed",
    "CountTokensRequest",
    "EmbedRequest",
    "Failed",
    "GatewayError",
    "InferRequest",
    "InferenceResult",
    "ModelsRequest",
    "OutputTextDelta",
    "ReasoningDelta",
    "Started",
    "ToolCallDelta",
    "ToolCallReady",
    "Usage",
    "__version__",
    "connect",
    "load_config",
]

_MODULES = {
    "AIGateway": "gateway",
    "GatewayError": "errors",
    "InferenceResult": "event_stream",
    "connect": "client",
    **dict.fromkeys(("CountTokensRequest", "EmbedRequest", "InferRequest", "ModelsRequest"), "requests"),
    "load_config": "config",
}


def __getattr__(name: str) -> Any:
    """Loads a public name from its module; the events of an answer are `canonical`'s."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES.get(name, 'canonical')}", __name__), name)
