"""What a load test can be told besides locust's own options: names, environment variables, defaults.

It knows neither locust nor the service. Invariant: every option stands in `OPTIONS` once, and docs/loadtests.md shows
the same rows. The variables begin with LOADTEST_ because the service refuses a BATON_ variable that it does not know.
"""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A number of at least 0; `overload` is its default under the overload shape, where that differs."""

    name: str
    default: float
    what: str
    overload: float | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"LOADTEST_{self.name.upper()}"


OPTIONS = (
    Option("sentiment_weight", 3, "share of users that send texts to /v1/sentiment"),
    Option("forecast_weight", 1, "share of users that send series to /v1/forecast"),
    Option("stream_weight", 4, "share of users that are one session of /v1/step each"),
    Option("tag_weight", 0, "share of users that send texts to /v1/tag, for the model tagger"),
    Option("transform_weight", 0, "share of users that send series to /v1/transform, for the model denoise"),
    Option("classify_weight", 0, "share of users that send texts to /v1/classify, for the model spam"),
    Option("generate_weight", 0, "share of users that send prompts to /v1/generate, for the model charlm"),
    Option("think_time", 0.2, "mean pause of a user between requests in seconds, exponentially distributed", 0.02),
    Option("requests", 0, "end as soon as every kind of user has made so many requests; 0 leaves it to --run-time"),
    Option("max_failures", 0, "share of requests that may fail"),
    Option("max_refused", 0, "share of requests that may be refused with 429 or 504", 1),
    Option("min_refused", 0, "requests that must be refused; 1 shows that an overload was one", 1),
    Option("sentiment_p95_ms", 500, "most that the 95th percentile of /v1/sentiment may be, in milliseconds", 10_000),
    Option("forecast_p95_ms", 1000, "most that the 95th percentile of /v1/forecast may be, in milliseconds", 10_000),
    Option("stream_p95_ms", 500, "most that the 95th percentile of /v1/step may be, in milliseconds", 10_000),
    Option("tag_p95_ms", 500, "most that the 95th percentile of /v1/tag may be, in milliseconds"),
    Option("transform_p95_ms", 1000, "most that the 95th percentile of /v1/transform may be, in milliseconds"),
    Option("classify_p95_ms", 500, "most that the 95th percentile of /v1/classify may be, in milliseconds"),
    Option("generate_p95_ms", 2000, "most that the 95th percentile of /v1/generate may be, in milliseconds"),
    Option("min_requests", 1, "answered requests that each kind of user must reach"),
)


def non_negative(text: str) -> float:
    """Read an option's value. Raises: ArgumentTypeError when it is no finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ArgumentTypeError(f"{text!r} is no finite number of at least 0")
    return value
