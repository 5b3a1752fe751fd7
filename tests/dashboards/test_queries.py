"""Each query of the dashboard and of the alerts asks for what `/metrics` has, and docs/metrics.md describes it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from . import alerts_page
from .queries import (
    ALERTS,
    DASHBOARD,
    PANELS,
    Query,
    alert_queries,
    dashboard_queries,
    grouping_labels,
    selectors,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text("utf-8")
QUERIES = [*dashboard_queries(), *alert_queries()]

FROM_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes."""

Series = dict[str, dict[str, set[str]]]
"""Name of a series → its labels → their values."""


def there(text: str) -> Series:
    """What a scrape has."""
    found: Series = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found[sample.name]
            for label, value in sample.labels.items():
                labels[label].add(value)
    found["up"].clear()  # Prometheus' own
    return found


def mistakes(query: Query, series: Series) -> list[str]:
    """What the query names and no scrape has: metrics, labels, and values where a label's values are fixed."""
    wrong = []
    labels = set(FROM_PROMETHEUS)
    for metric, matchers in selectors(query.text):
        if metric not in series:
            wrong.append(f"{query.where}: no series {metric}")
            continue
        labels |= series[metric].keys()
        for label, operator, value in matchers:
            if label not in series[metric] and label not in FROM_PROMETHEUS:
                wrong.append(f"{query.where}: {metric} has no label {label}")
            elif label not in FROM_PROMETHEUS and value != ".*":
                known = series[metric][label]
                named = value.split("|") if "~" in operator else [value]
                wrong += [f"{query.where}: {metric} has no {label} {one}" for one in named if one not in known]
    wrong += [f"{query.where}: groups by {label}" for label in grouping_labels(query.text) - labels]
    if not selectors(query.text):
        wrong.append(f"{query.where}: names no series")
    return wrong


def test_every_query_names_series_that_exist(text):
    """Metrics, labels and the values of labels, from the first scrape on."""
    series = there(text)

    assert [mistake for query in QUERIES for mistake in mistakes(query, series)] == []


@pytest.mark.parametrize(
    ("query", "mistake"),
    [
        ("rate(beluna_gateway_request_total[5m])", "no series beluna_gateway_request_total"),
        ("beluna_gateway_queued{backend='b'} > 0", None),
        ('beluna_gateway_queued{backend="b"} > 0', "has no label backend"),
        ('beluna_gateway_breaker{state="opened"}', "has no state opened"),
        ("sum by (user) (beluna_gateway_queued)", "groups by user"),
        ("vector(1)", "names no series"),
        ("sum by (instance, backend_id) (beluna_gateway_queued)", None),
    ],
)
def test_a_query_that_is_wrong_is_found(text, query, mistake):
    """The check above can fail."""
    found = mistakes(Query("q", query), there(text))

    assert (mistake is None) == (found == [])
    assert mistake is None or mistake in found[0]


def test_the_page_describes_every_metric(text):
    """docs/metrics.md has each metric of a scrape with its type and labels, and no other."""
    served = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        served[name] = (family.type, labels)
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\|", PAGE, re.MULTILINE)
    described = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}

    assert described == served


def test_the_dashboard_shows_every_metric():
    """Each metric of the page is in some panel."""
    shown = {metric for query in dashboard_queries() for metric, _ in selectors(query.text)}
    described = re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram) \|", PAGE, re.MULTILINE)
    missing = {name for name in described if not any(metric.startswith(name) for metric in shown)}

    assert missing == {"process_virtual_memory_bytes"}


def test_each_alert_says_what_it_means_and_what_to_do():
    """Summary, description and action are sentences; the severity is one of three."""
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), alert["alert"]
        for part in ("summary", "description", "action"):
            assert len(alert["annotations"][part]) > 20, alert["alert"]
    assert len({alert["alert"] for alert in ALERTS}) == len(ALERTS)


def test_the_pages_table_of_alerts_is_up_to_date():
    """`python -m tests.dashboards.alerts_page` writes it."""
    assert alerts_page.rewritten(PAGE) == PAGE


def test_the_panels_have_places_of_their_own():
    """No panel covers another one, each has a description, and ids are unique."""
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_a_number_with_a_curve_has_one():
    """Grafana draws the curve under a number only from a range of values, and only in a panel that is high enough."""
    with_curve = [panel for panel in PANELS if panel["options"].get("graphMode") == "area"]

    assert with_curve
    for panel in with_curve:
        assert panel["gridPos"]["h"] >= 5, panel["title"]
        assert all(target["range"] for target in panel["targets"]), panel["title"]
