"""A Prometheus server that scrapes one daemon."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .conftest import free_port


class Prometheus:
    """A running server. It listens a moment after its start; until then asking it raises OSError."""

    def __init__(self, folder: Path, target: str, scrape_seconds: int, rules: Sequence[Path]) -> None:
        self.config_path = folder / "prometheus.yml"
        self._log_path = folder / "prometheus.log"
        self._address = f"127.0.0.1:{free_port()}"
        every = f"{scrape_seconds}s"
        config = {
            "global": {"scrape_interval": every, "evaluation_interval": every},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "beluna-gateway", "static_configs": [{"targets": [target]}]}],
        }
        self.config_path.write_text(yaml.safe_dump(config))
        files = [f"--config.file={self.config_path}", f"--storage.tsdb.path={folder / 'data'}"]
        command = ["prometheus", *files, f"--web.listen-address={self._address}"]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of its HTTP API, `/api/v1/…`."""
        assert self._process.poll() is None, self._log_path.read_text()
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@contextmanager
def prometheus(
    folder: Path, target: str, *, scrape_seconds: int = 1, rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """A server that keeps its files in `folder`, and is gone afterwards.

    Args:
        folder: Where its configuration, log and data are.
        target: Host and port of what it scrapes.
        scrape_seconds: How often, and how often it evaluates the rules.
        rules: Files of alert rules.
    """
    server = Prometheus(folder, target, scrape_seconds, rules)
    try:
        yield server
    finally:
        server.stop()
