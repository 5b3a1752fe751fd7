"""The dashboard and the alerts in Prometheus' own programs: promtool, and a server that scrapes a daemon."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Scraped
from .prometheus import Prometheus, prometheus
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
    with prometheus(tmp_path, scraped.address, rules=[RULES_FILE]) as server:
        promtool("check", "config", server.config_path)
        groups = await _evaluated(server)

    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["state"] == "firing"] == []


async def _evaluated(server: Prometheus) -> list[Any]:
    """Its groups of rules, after it has evaluated each of them and has series for each query of the dashboard."""
    missing: list[str] = []
    try:
        async with asyncio.timeout(40):
            while missing := await _unanswered(server):
                await asyncio.sleep(0.5)
            while True:
                groups: list[Any] = (await asyncio.to_thread(server.ask, "rules"))["groups"]
                if all(rule["health"] != "unknown" for group in groups for rule in group["rules"]):
                    return groups
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"not after 40 s: {missing or 'the health of every rule'}")


async def _unanswered(server: Prometheus) -> list[str]:
    """The queries for which it has no series yet."""
    missing = []
    for query in dashboard_queries():
        expression = re.sub(r" (== 1|> 0|>= 0)$", "", query.text)  # these leave out what is not so
        try:
            data = await asyncio.to_thread(server.ask, "query", query=expression)
        except OSError:
            return ["any query: it does not listen yet"]
        if not data["result"]:
            missing.append(f"{query.where}: {expression}")
    return missing
