"""A connection that is not admitted is told why, also when it speaks first."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from ..fakes.client import Frame, connected
from ..fakes.daemon import local_daemon, make_config


def _speak_first(path: Path) -> list[Frame]:
    """What a client hears that writes before it reads, as most do; a broken pipe or a reset is an error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(path))
        for _ in range(10):
            client.sendall(b'{"type":"status"}\n')
        received = b""
        while data := client.recv(65536):
            received += data
    return [json.loads(line) for line in received.splitlines()]


@pytest.mark.parametrize(
    ("server", "kind"), [({"max_connections": 1}, "budget_exceeded"), ({"allowed_uids": [2**32 - 2]}, "authorization")]
)
async def test_a_refused_client_is_told_why(tmp_path: Path, server: Frame, kind: str) -> None:
    """It hears one `rejected` without an id and then the end, each time; what it wrote is not served."""
    config = make_config({"main": {}}, server=server)
    # `connected`: the one client that is admitted, where one is.
    async with local_daemon(tmp_path, config) as daemon, connected(daemon.socket_path):
        for _ in range(50):
            [frame] = await asyncio.to_thread(_speak_first, daemon.socket_path)

            assert (frame["type"], frame["request_id"], frame["error"]["kind"]) == ("rejected", None, kind)
