"""What became of the arrivals of an open-loop run, in numbers.

It knows times and statuses, not connections. Invariant: every arrival is counted once: by its status, as a connection
error, or as unanswered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

NO_ANSWER = 0
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Outcome:
    """Units: `_ms` milliseconds, None where there was nothing to measure; `_per_s` over the time of the arrivals.

    Latencies are those of the answers of 200, from when they were due; `goodput_per_s` counts the 200s that came before
    the arrivals ended; `unanswered` includes what was never sent for want of a connection; `connections` is the most
    that were open; `cpu` is the generator's own use, in cores.
    """

    arrivals: int
    offered_per_s: float
    sent: int
    sent_per_s: float
    send_delay_p50_ms: float | None
    send_delay_p99_ms: float | None
    statuses: dict[int, int]
    connection_errors: int
    unanswered: int
    refused_without_retry_after: int
    goodput_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    connections: int
    cpu: float


def summarise(
    *,
    due: Array,
    sent: Array,
    ended: Array,
    status: Array,
    seconds: float,
    refused_without_retry_after: int,
    connection_errors: int,
    connections: int,
    cpu: float,
) -> Outcome:
    """Shapes: due, sent, ended, status [arrivals]; times in seconds from the start, NaN for what never happened."""
    ok = status == HTTPStatus.OK
    latency_ms, delay_ms = 1e3 * (ended - due)[ok], 1e3 * (sent - due)[~np.isnan(sent)]
    return Outcome(
        arrivals=len(due),
        offered_per_s=len(due) / seconds,
        sent=len(delay_ms),
        sent_per_s=int((sent <= seconds).sum()) / seconds,
        send_delay_p50_ms=_percentile(delay_ms, 50),
        send_delay_p99_ms=_percentile(delay_ms, 99),
        statuses=dict(Counter(status[status != NO_ANSWER].tolist())),
        connection_errors=connection_errors,
        unanswered=int(np.isnan(ended).sum()),
        refused_without_retry_after=refused_without_retry_after,
        goodput_per_s=int((ended[ok] <= seconds).sum()) / seconds,
        p50_ms=_percentile(latency_ms, 50),
        p99_ms=_percentile(latency_ms, 99),
        max_ms=_percentile(latency_ms, 100),
        connections=connections,
        cpu=cpu,
    )


def _percentile(values: Array, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None
