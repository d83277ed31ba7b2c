"""What deploy/ gives to Prometheus and Grafana, read as they read it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from conftest import ROOT

RULES = ROOT / "deploy" / "prometheus" / "baton.rules.yml"
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "baton.json"
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COMPARED = re.compile(r"(?P<query>.+) (?:<|>) [\d.e]+\s*", flags=re.DOTALL)


def rules(kind: str) -> list[dict[str, Any]]:
    """Return every rule that is a `kind`, record or alert."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def query_of(alert: dict[str, Any]) -> str:
    """Return what an alert compares with a number."""
    compared = COMPARED.fullmatch(alert["expr"])
    assert compared, f"{alert['alert']} is no <query> <comparison> <number>"
    return compared["query"]


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return read


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def drawn() -> Iterator[tuple[str, str]]:
    """Yield every query of the dashboard, with the title of its panel or the name of its mark."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for mark in dashboard()["annotations"]["list"]:
        yield mark["name"], mark["expr"]


def told() -> Iterator[tuple[str, str]]:
    """Yield every query of the rules, with the name of its rule."""
    for rule in rules("record"):
        yield rule["record"], rule["expr"]
    for rule in rules("alert"):
        yield rule["alert"], query_of(rule)
