"""What the files in `dashboards/` ask Prometheus for, read by regular expressions: metric names and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
RULES_FILE, RULE_TESTS, DASHBOARD_FILE = (
    FOLDER / name for name in ("beluna-gateway.rules.yml", "beluna-gateway.test.yml", "grafana.json")
)

DASHBOARD: dict[str, Any] = json.loads(DASHBOARD_FILE.read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES_FILE.read_text("utf-8"))["groups"] for rule in group["rules"]
]

_VARIABLES = {"$backend": ".*", "$client": ".*", "$instance": ".*"}


class Query(NamedTuple):
    where: str
    text: str
    """PromQL, without Grafana's variables."""


def dashboard_queries() -> Iterator[Query]:
    """Those of all panels."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield Query(f"{panel['title']} {target['refId']}", with_variables(target["expr"], "1m"))


def alert_queries() -> Iterator[Query]:
    """Those of all alerts."""
    for alert in ALERTS:
        yield Query(alert["alert"], alert["expr"])


def with_variables(expression: str, rate_interval: str) -> str:
    """The expression as Grafana would send it, where all backends, clients and daemons are chosen."""
    for variable, value in {**_VARIABLES, "$__rate_interval": rate_interval}.items():
        expression = expression.replace(variable, value)
    return expression


_SELECTOR = re.compile(r"\b((?:beluna_gateway|process)_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def selectors(query: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Each series selector of the query: the metric, and its matchers as label, operator and value."""
    return [(found[1], _MATCHER.findall(found[2] or "")) for found in _SELECTOR.finditer(query)]


def grouping_labels(query: str) -> set[str]:
    """The labels that the query groups by."""
    return {name.strip() for found in re.findall(r"\bby \(([^)]*)\)", query) for name in found.split(",")}
