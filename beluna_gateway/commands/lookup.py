"""What a command starts from: its configuration, and the daemon that it asks; or why there is none."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .outcome import UNAVAILABLE, UNREADABLE, WRONG_CONFIG, complain
from .starter import VARIABLE, config_places

if TYPE_CHECKING:
    from ..config.loading import ConfigError, ConfigUnreadable
    from ..config.settings import Config


def load(path: Path) -> Config | int:
    """The configuration, or the exit status after its mistakes were printed."""
    from ..config.loading import ConfigError, ConfigUnreadable, load_config

    try:
        return load_config(path)
    except (ConfigUnreadable, ConfigError) as error:
        return refused(error, path)


def refused(error: ConfigUnreadable | ConfigError, path: Path) -> int:
    """Tells what is wrong with the configuration; the exit status."""
    from ..config.loading import ConfigUnreadable

    if isinstance(error, ConfigUnreadable):
        complain(f"{error}{_where_looked(path)}")
        return UNREADABLE
    complain(str(error))
    return WRONG_CONFIG


def _where_looked(path: Path) -> str:
    """Why it was `path` that was read, where it is missing and nobody named it."""
    places = config_places(os.environ)
    if path != places[0] or path.exists():
        return ""
    if len(places) == 1:
        return f" (${VARIABLE})"
    return f"; looked for in {', '.join(map(str, places))}; `beluna-gateway init` writes one"


def socket_path(options: argparse.Namespace) -> Path | int:
    """The socket of the daemon that is asked, or the exit status after it was told why none is known."""
    if options.socket is not None:
        return Path(options.socket)
    config = load(options.config)
    if isinstance(config, int):
        if config == WRONG_CONFIG:
            complain("a daemon that runs goes on with what it has; --socket PATH asks it without this file")
        return config
    folder: Path = options.config.absolute().parent
    return folder / config.socket_path


def tell_no_daemon(path: Path, error: OSError) -> int:
    """Tells why no daemon answers at `path`; the exit status."""
    from .no_daemon import why_not

    complain(why_not(path, error))
    return UNAVAILABLE


def is_unicode(text: str) -> bool:
    """Whether an argument was UTF-8: bytes that were not are halves of surrogate pairs (PEP 383)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
