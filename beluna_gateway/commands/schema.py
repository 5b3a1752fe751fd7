"""`beluna-gateway schema`: the JSON Schemas of the configuration and of the frames."""

from __future__ import annotations

import argparse
import json

from .outcome import OK


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ..config.settings import json_schema
    from ..wire.frame_schemas import client_frame_schema, server_frame_schema

    schema = {"config": json_schema, "client": client_frame_schema, "server": server_frame_schema}[options.which]()
    print(json.dumps(schema, indent=2))
    return OK
