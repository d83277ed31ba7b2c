"""The `OTEL_*` variables that say where traces go, and which: read before OpenTelemetry, which guesses around mistakes.

It knows the variables, not spans; OpenTelemetry reads them again, and acts on them. Invariants: a variable that
concerns traces is honoured, or ends start-up; no message holds a value, which may be a secret.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal, TypeVar
from urllib.parse import unquote

from pydantic import AfterValidator, AnyHttpUrl, Field, FilePath, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsError

T = TypeVar("T", bound=BaseSettings)

SDK, OTLP, OTLP_TRACES = "OTEL_", "OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"
OF_TRACES = re.compile(
    "OTEL_(EXPORTER_OTLP_(?!METRICS_|LOGS_)|TRACES_|SPAN_|BSP_|PROPAGATORS$|SDK_|CONFIG_FILE$|(EVENT_|LINK_)?ATTRIBUTE_)"
)
NAME, VALUE = r"[!#-'*+\-.0-9A-Z^-z|~]+", r"[ \t!#-+\--:<-\[\]-~]*"  # of a field in OTEL_EXPORTER_OTLP_HEADERS
FIELDS = re.compile(rf"\s*{NAME}[ \t]*={VALUE}(,\s*{NAME}[ \t]*={VALUE})*,?")
PAIRS = r"^[^=,]+=[^,]*(,[^=,]+=[^,]*)*$"


def _sendable(fields: str) -> str:
    if not FIELDS.fullmatch(fields) or not (unquote(fields).isascii() and unquote(fields).isprintable()):
        raise ValueError("should be name=value,name=value with URL-encoded values, as header fields can carry them")
    return fields


class Export(BaseSettings):
    """How the collector is spoken to: `OTEL_EXPORTER_OTLP_*`, and `OTEL_EXPORTER_OTLP_TRACES_*`, which win."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    endpoint: AnyHttpUrl | None = None
    headers: Annotated[str, AfterValidator(_sendable)] | None = None
    certificate: FilePath | None = None
    client_key: FilePath | None = None
    client_certificate: FilePath | None = None
    compression: Literal["none", "gzip", "deflate"] = "none"
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10
    protocol: Literal["http/protobuf"] = "http/protobuf"


class Tracing(BaseSettings):
    """What is traced, and when it is sent: `OTEL_*`."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    sdk_disabled: Annotated[str, Field(pattern="(?i)^(true|false)$")] = "false"
    traces_exporter: Literal["otlp", "none"] = "otlp"
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = "parentbased_always_on"
    traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = 1
    propagators: Annotated[str, Field(pattern="^(baggage, ?)?tracecontext(, ?baggage)?$")] = "tracecontext"
    service_name: str = "baton"
    resource_attributes: Annotated[str, Field(pattern=PAIRS)] | None = None
    bsp_schedule_delay: PositiveInt = 5000
    bsp_max_queue_size: PositiveInt = 2048
    bsp_max_export_batch_size: PositiveInt = 512


HONOURED = {
    *(f"{SDK}{name}".upper() for name in Tracing.model_fields),
    *(f"{prefix}{name}".upper() for prefix in (OTLP, OTLP_TRACES) for name in Export.model_fields),
}


def check_variables() -> None:
    """See that every variable of traces can be used; take those out that are empty, which counts as unset.

    Raises: SettingsError for one that cannot, or that nobody would honour.
    """
    for name in sorted(os.environ):
        if name in HONOURED and not os.environ[name].strip():
            del os.environ[name]
        elif OF_TRACES.match(name) and name not in HONOURED:
            raise SettingsError(f"{name} is not honoured; unset it (docs/logs-and-traces.md names those that are)")
    for kind, prefix in ((Tracing, SDK), (Export, OTLP), (Export, OTLP_TRACES)):
        _read(kind, prefix)


def why_off() -> str | None:
    """Return the variable by which nothing is to be traced, as it is set, or None."""
    read = _read(Tracing, SDK)
    if read.sdk_disabled.lower() == "true":
        return "OTEL_SDK_DISABLED=true"
    return "OTEL_TRACES_EXPORTER=none" if read.traces_exporter == "none" else None


def _read(kind: type[T], prefix: str) -> T:
    try:
        return kind(_env_prefix=prefix)
    except ValidationError as failure:
        problems = (
            f"{prefix}{error['loc'][0]}".upper() + f": {error['msg']}"
            for error in failure.errors(include_url=False, include_input=False)
        )
        raise SettingsError("; ".join(problems)) from None
