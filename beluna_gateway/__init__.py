"""beluna-gateway: the one place through which every model call of Beluna goes.

The public names of the library are imported from here; each is loaded when it is first used, so that
`beluna-gateway --version` loads none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .canonical import (
        Completed as Completed,
    )
    from .canonical import (
        Failed as Failed,
    )
    from .canonical import (
        OutputTextDelta as OutputTextDelta,
    )
    from .canonical import (
        ReasoningDelta as ReasoningDelta,
    )
    from .canonical import (
        Started as Started,
    )
    from .canonical import (
        ToolCallDelta as ToolCallDelta,
    )
    from .canonical import (
        ToolCallReady as ToolCallReady,
    )
    from .canonical import (
        Usage as Usage,
    )
    from .client import connect as connect
    from .config import load_config as load_config
    from .errors import GatewayError as GatewayError
    from .event_stream import InferenceResult as InferenceResult
    from .gateway import AIGateway as AIGateway

__version__ = "0.1.0"

_PUBLIC = {
    "AIGateway": "gateway",
    "load_config": "config",
    "connect": "client",
    "GatewayError": "errors",
    "InferenceResult": "event_stream",
    **dict.fromkeys(
        (
            "Started",
            "OutputTextDelta",
            "ReasoningDelta",
            "ToolCallDelta",
            "ToolCallReady",
            "Usage",
            "Completed",
            "Failed",
        ),
        "canonical",
    ),
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - the names of the table


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)
