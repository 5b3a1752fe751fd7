"""`beluna-gateway init`: a first configuration."""

from __future__ import annotations

import argparse
import os

from ..telemetry.terminal import printable
from .outcome import CANNOT_CREATE, OK, USAGE, complain
from .starter import FILE_NAME, config_places


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from .starter import CannotWrite, hidden_from_service, next_steps, write_starter

    if options.folder is not None and options.named_config is not None:
        complain("init takes a folder or --config, not both")
        return USAGE
    config = options.named_config or config_places(os.environ)[0]
    if options.folder is not None:
        config = options.folder / FILE_NAME
    try:
        files = write_starter(config, systemd=options.systemd)
    except CannotWrite as error:
        complain(str(error))
        return CANNOT_CREATE
    for file in files:
        print(printable(f"wrote {file}"))
    print("next:")
    for step in next_steps(files, systemd=options.systemd):
        print(printable(f"  {step}"))
    if options.systemd and (programs := hidden_from_service()) is not None:
        complain(f"the service cannot see {programs}, where this is installed: install it in /opt, for example")
    return OK
