"""The variables of OpenTelemetry: each is honoured as it stands, or ends start-up without showing its value."""

from __future__ import annotations

import os

import pytest
from conftest import ROOT

from service.errors import SettingsError
from service.web.trace_variables import HONOURED, check_variables, why_off

SECRET = "verysecretword"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_TRACES_EXPORTER", "otlp,console"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratoi"),
        ("OTEL_TRACES_SAMPLER_ARG", "7"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_PROPAGATORS", "none"),
        ("OTEL_RESOURCE_ATTRIBUTES", SECRET),
        ("OTEL_BSP_SCHEDULE_DELAY", "x"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1.5"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"ftp://user:{SECRET}@collector"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20x,=;{SECRET}"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", f"authorization={SECRET}%0A"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "1"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1"),
        ("OTEL_TRACES_SAMPLR", "always_on"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        check_variables()
    assert str(refused.value).startswith(name)
    assert SECRET not in str(refused.value)


def test_what_can_be_honoured_and_what_is_not_about_traces_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_RESOURCE_ATTRIBUTES": "a=b,c=d%20e",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318/otlp",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, api-key = a b==,",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "soon",
        "OTEL_LOG_LEVEL": "debug",
    }.items():
        monkeypatch.setenv(name, value)
    check_variables()
    assert why_off() is None


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", " ")
    check_variables()
    assert "OTEL_BSP_MAX_QUEUE_SIZE" not in os.environ


@pytest.mark.parametrize("setting", ["OTEL_SDK_DISABLED=TRUE", "OTEL_TRACES_EXPORTER=none"])
def test_a_variable_turns_traces_off(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*setting.split("="))
    check_variables()
    assert (why_off() or "").lower() == setting.lower()


def test_the_page_names_what_is_honoured() -> None:
    page = (ROOT / "docs/logs-and-traces.md").read_text()
    assert not [name for name in HONOURED if "_OTLP_TRACES_" not in name and name not in page]
