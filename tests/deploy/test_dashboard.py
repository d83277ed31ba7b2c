"""The dashboard, as Grafana's own types read it, and what holds for its panels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import yaml
from conftest import ROOT
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from monitoring import DATA_SOURCE, dashboard, drawn, panels, told

COLUMNS = 24
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def unread(given: Any, read: Any, place: str = "") -> Iterator[str]:
    """Yield the places of what was given and is not in what was read."""
    if isinstance(given, dict) and isinstance(read, dict):
        for name, value in given.items():
            yield from unread(value, read.get(name), f"{place}.{name}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for index, (value, other) in enumerate(zip(given, read, strict=True)):
            yield from unread(value, other, f"{place}[{index}]")
    elif given != read:
        yield place


def test_the_dashboard_has_no_member_that_grafana_s_types_do_not() -> None:
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard())))
    assert not list(unread(dashboard(), read))


def test_panels_have_a_number_of_their_own_and_do_not_lie_on_one_another() -> None:
    placed = dashboard()["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    cells = {
        panel["id"]: {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for panel in placed
        for at in [panel["gridPos"]]
    }
    assert not [pair for pair in combinations(cells, 2) if cells[pair[0]] & cells[pair[1]]]
    taken = set().union(*cells.values())
    height = 1 + max(y for _, y in taken)
    assert taken == {(x, y) for x in range(COLUMNS) for y in range(height)}, "no hole either"


def test_the_page_of_monitoring_tells_of_every_row() -> None:
    section = (ROOT / "docs" / "monitoring.md").read_text().split("\n## Dashboard\n")[1].split("\n## ")[0]
    told_of = re.findall(r"^\| (.+?) \|", section, flags=re.MULTILINE)[1:]  # after the head of the table
    assert told_of == [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_says_what_it_shows_and_asks_the_data_source_that_was_chosen(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["datasource"] == DATA_SOURCE
    assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"] == DATA_SOURCE
        assert panel["type"] != "timeseries" or target["legendFormat"]


def test_every_query_is_of_the_instances_and_the_models_that_were_chosen() -> None:
    for title, query in drawn():
        for metric, labels in re.findall(r"(baton_\w+)\{(.*?)\}", query):
            assert 'instance=~"$instance"' in labels, title
            by_model = {"model"} & set(metric_labels()[metric_name(metric)])
            assert ('model=~"$model"' in labels) == bool(by_model), title
        assert len(re.findall(r"baton_\w+", query)) == len(re.findall(r"baton_\w+\{", query)), title


def test_whatever_is_drawn_or_alerted_about_is_a_metric_of_the_service() -> None:
    for title, query in (*drawn(), *told()):
        for metric in re.findall(r"(?<![\w:])baton_\w+", query):
            assert metric_name(metric) in metric_labels(), title


def test_grafana_finds_the_dashboard_and_prometheus_where_they_are() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "baton.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def metric_labels() -> dict[str, list[str]]:
    """Return the labels of every metric, as docs/metrics.md has them."""
    rows = re.findall(r"^\| `(baton_\w+)` \| (.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), flags=re.MULTILINE)
    return {name: re.findall(r"`(\w+)`", labels) for name, labels in rows}


def metric_name(series: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", series)
