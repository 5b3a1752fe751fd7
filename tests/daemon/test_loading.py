"""What the daemon loads once its socket accepts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.certificate import write_certificate
from tests.fakes.config import backend, config, load

PROGRAM = """
import gc, os, ssl, sys
from pathlib import Path
from beluna_gateway.config.loading import load_config
from beluna_gateway.config.tls_files import system_context
from beluna_gateway.daemon.loading import load_adapters

for folder in ("program", "http"):
    load_adapters(load_config(Path(folder) / "beluna.jsonc"))
    print("aiohttp" in sys.modules)
contexts = [each for each in gc.get_objects() if isinstance(each, ssl.SSLContext)]
print(sum(each.cert_store_stats()["x509"] for each in contexts), system_context().cert_store_stats()["x509"])
print(os.environ.get("SSL_CERT_FILE"))
"""


@pytest.mark.parametrize("named", [True, False])
def test_loading_the_pool_of_connections(tmp_path: Path, named: bool):
    """It is loaded for backends that are reached over HTTP. That reads no authorities, which wait for the first
    connection that needs them, and the environment is afterwards what it was.
    """
    write_certificate(tmp_path / "ca.pem")
    for folder, settings in {"program": {"dialect": "github_copilot_sdk", "endpoint": ...}, "http": {}}.items():
        (tmp_path / folder).mkdir()
        load(tmp_path / folder, config(backend(**settings)))
    environment = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    if named:
        environment["SSL_CERT_FILE"] = "ca.pem"

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    for_program, for_http, authorities, after = done.stdout.splitlines()
    assert (for_program, for_http) == ("False", "True")
    assert authorities == "0 1" if named else authorities.startswith("0 ")
    assert after == str(environment.get("SSL_CERT_FILE"))
