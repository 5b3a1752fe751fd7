"""The dashboard and the alerts in Prometheus' own programs: promtool, and a server that scrapes a daemon."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Scraped, free_port
from .queries import ALERTS, RULE_TESTS, RULES_FILE, dashboard_queries

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="NOT CHECKED: promtool and prometheus are missing (`make monitoring`, or Debian: apt install prometheus)",
)


def promtool(*arguments: str | Path) -> str:
    """What it prints; it must succeed."""
    ended = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, check=False, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_rules_are_right():
    """`promtool check rules` takes them."""
    assert "rules found" in promtool("check", "rules", RULES_FILE)


def test_each_alert_fires_where_it_should():
    """`promtool test rules`: the unit tests of the rules."""
    promtool("test", "rules", RULE_TESTS)


def test_each_alert_has_a_unit_test():
    """No alert without a case in which it fires."""
    tests = RULE_TESTS.read_text("utf-8")

    assert [alert["alert"] for alert in ALERTS if f'{{alertname="{alert["alert"]}"' not in tests] == []


async def test_a_server_answers_every_query(tmp_path: Path, scraped: Scraped):
    """Prometheus scrapes the daemon, evaluates every alert, and has a series for every query of the dashboard."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES_FILE)],
        "scrape_configs": [{"job_name": "beluna-gateway", "static_configs": [{"targets": [scraped.address]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", tmp_path / "prometheus.yml")
    files = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(["prometheus", *files, f"--web.listen-address={address}"], stdout=log, stderr=log)

    def ask(path: str, **parameters: str) -> Any:
        url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    async def unanswered() -> list[str]:
        missing = []
        for query in dashboard_queries():
            expression = query.text.removesuffix(" == 1").removesuffix(" > 0")  # these leave out what is not so
            data = await asyncio.to_thread(ask, "query", query=expression)
            if not data["result"]:
                missing.append(f"{query.where}: {expression}")
        return missing

    try:
        async with asyncio.timeout(40):
            while (missing := await _or_not_yet(unanswered)) is None or missing:
                assert server.poll() is None, (tmp_path / "prometheus.log").read_text()
                await asyncio.sleep(0.5)
            while (groups := (await asyncio.to_thread(ask, "rules"))["groups"])[0]["rules"][-1]["health"] == "unknown":
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"no series after 40 s for {missing}")
    finally:
        server.terminate()
        server.wait(20)
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["state"] == "firing"] == []


async def _or_not_yet(function: Any) -> Any:
    """Its result; None while the server does not listen yet."""
    try:
        return await function()
    except OSError:
        return None
