"""What scales and watches the service in a cluster reads metrics that it has, under their own names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from manifests import FOLDER, read
from monitoring import RULES
from programs import find_program

from service.metrics import Metrics

MONITORING = FOLDER / "components" / "monitoring"
OF_TARGETS = {"container", "endpoint", "instance", "job", "namespace", "pod", "service"}
"""What the Prometheus operator calls a target; a metric's own label of such a name is renamed."""


def adapter_rule() -> dict[str, Any]:
    (rule,) = read(MONITORING / "prometheus-adapter-values.yaml")[0]["rules"]["custom"]
    return dict(rule)


def adapter_query(series: str, pods: str) -> str:
    """Return the query that prometheus-adapter makes of its rule for these pods."""
    query: str = adapter_rule()["metricsQuery"]
    matchers = f'namespace="baton",pod=~"{pods}"'
    for placeholder, text in {"Series": series, "LabelMatchers": matchers, "GroupBy": "pod"}.items():
        query = query.replace(f"<<.{placeholder}>>", text)
    return query


def test_the_autoscaler_s_metric_is_the_adapter_s() -> None:
    (patch,) = read(MONITORING / "horizontalpodautoscaler.patch.yaml")[0]
    assert patch["value"]["pods"]["metric"]["name"] == adapter_rule()["name"]["as"]
    assert adapter_rule()["seriesQuery"].partition("{")[0] == f"{Metrics().queue_s._name}_bucket"


def test_the_autoscaler_s_metric_is_the_90th_percentile_of_each_pod_s_wait(tmp_path: Path) -> None:
    """Of ten requests a minute nine waited at most 50 ms at one pod, and at the other all between 50 and 100 ms."""
    series = f"{Metrics().queue_s._name}_bucket"
    waits = {"one": {"0.05": 9, "0.1": 10, "+Inf": 10}, "other": {"0.05": 0, "0.1": 10, "+Inf": 10}}
    inputs = [
        {"series": f'{series}{{namespace="baton",pod="{pod}",model="m",le="{le}"}}', "values": f"0+{count}x10"}
        for pod, buckets in waits.items()
        for le, count in buckets.items()
    ]
    expected = [{"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in {"one": 0.05, "other": 0.095}.items()]
    test = {"expr": adapter_query(series, "one|other"), "eval_time": "10m", "exp_samples": expected}
    case = {"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [test]}]}
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    check = [find_program("promtool"), "test", "rules", str(tmp_path / "case.yml")]
    tested = subprocess.run(check, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_metrics_keep_their_labels_beside_those_of_the_target() -> None:
    """Where both have a label, Prometheus renames the metric's, and a rule or panel that reads it finds nothing."""
    (endpoint,) = read(MONITORING / "servicemonitor.yaml")[0]["spec"]["endpoints"]
    dropped = {rule["regex"] for rule in endpoint["relabelings"] if rule["action"] == "labeldrop"}
    collectors = [collector for collector in vars(Metrics()).values() if hasattr(collector, "_labelnames")]
    assert {label for collector in collectors for label in collector._labelnames} & OF_TARGETS == dropped


def test_alerts_are_those_of_a_prometheus_of_one_s_own() -> None:
    (rules,) = read(MONITORING / "prometheusrule.yaml")
    assert rules["spec"] == read(RULES)[0]


def test_alerts_look_for_the_job_that_the_service_monitor_makes() -> None:
    """The operator calls a job after the Service."""
    (service,) = read(FOLDER / "base" / "service.yaml")
    jobs = re.findall(r'job=~?"(.*?)"', (MONITORING / "prometheusrule.yaml").read_text())
    assert set(jobs) == {service["metadata"]["name"]}
