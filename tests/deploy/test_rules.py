"""The rules and the configuration for Prometheus, by its own tool."""

from __future__ import annotations

import re
import subprocess
from typing import get_args

import pytest
import yaml
from conftest import ROOT
from monitoring import CONFIG, RULES, query_of, rules
from programs import find_program

from service.errors import Reason

TESTS = RULES.with_name("baton.rules_test.yml")
PAGE = (ROOT / "docs" / "monitoring.md").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--lint=all", "--lint-fatal", str(CONFIG)),
        ("check", "rules", "--lint=all", "--lint-fatal", str(RULES)),
        ("test", "rules", str(TESTS)),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [find_program("promtool"), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_by_the_tests_of_the_rules() -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["promql_expr_test"]]
    fired = {sample["labels"] for case in cases for sample in case.get("exp_samples", ())}
    named = {name for labels in fired for name in re.findall(r'alertname="(\w+)"', labels)}
    assert named == {alert["alert"] for alert in rules("alert")}


@pytest.mark.parametrize("alert", rules("alert"), ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_how_grave_it_is_what_it_means_and_where_to_read_on(alert: dict) -> None:
    assert query_of(alert)
    assert alert["for"]
    assert alert["labels"] in ({"severity": "warning"}, {"severity": "critical"})
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "docs"}
    page, section = re.fullmatch(r'(\S+), "(.+)"', notes["docs"]).groups()  # type: ignore[union-attr]
    assert page == "docs/monitoring.md"
    under = PAGE.split(f"\n### {section}\n")[1].split("\n#")[0]
    assert f"`{alert['alert']}`" in under


def test_the_table_of_alerts_has_each_with_its_severity_and_condition() -> None:
    shown = re.findall(r"^\| `(Baton\w+)` \| (\w+) \| .+ \| (\w+) \|$", PAGE, flags=re.MULTILINE)
    assert shown == [(alert["alert"], alert["labels"]["severity"], alert["for"]) for alert in rules("alert")]


def test_the_table_of_reasons_has_every_reason_why_a_token_is_refused() -> None:
    assert re.findall(r"^\| `([a-z0-9_]+)` \|", PAGE, flags=re.MULTILINE) == list(get_args(Reason))
