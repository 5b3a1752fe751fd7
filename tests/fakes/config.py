"""Configurations in a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import Config


def backend(**keys: Any) -> dict[str, Any]:
    """A backend `b`; `...` takes a key away."""
    plain = {
        "id": "b",
        "dialect": "ollama",
        "endpoint": "http://127.0.0.1:1",
        "credential": {"type": "none"},
        "default_model": "m",
    }
    return {key: value for key, value in {**plain, **keys}.items() if value is not ...}


def config(*backends: Any, gateway: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A configuration with `b` as its default backend."""
    shared = {"default_backend": "b", "backends": list(backends or [backend()])}
    return {"ai_gateway": {**shared, **(gateway or {})}, **sections}


def load(folder: Path, content: Any) -> Config:
    """What `content`, as a file, is as a configuration."""
    path = folder / "beluna.jsonc"
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_config(path)
