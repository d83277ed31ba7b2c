"""What a process shows of its use of the machine."""

from __future__ import annotations

import time

import psutil
from prometheus_client import Counter, Gauge

from service.metrics import Metrics
from service.workers.cores import allowed_cores
from service.workers.usage import Usage

PROCESS = psutil.Process()


def value(metric: Counter | Gauge) -> float:
    (family,) = metric.collect()
    return family.samples[0].value


def test_processor_time_is_counted_once_and_memory_is_as_linux_tells() -> None:
    """All threads and calls of this process count, and psutil reads the same from elsewhere."""
    metrics = Metrics()
    usage = Usage(metrics, "3")
    usage.show()
    before, after_s = value(metrics.cpu_s), time.process_time() + 0.1
    assert 0 < before < after_s
    while time.process_time() < after_s:
        pass
    usage.show()
    usage.show()
    assert after_s <= value(metrics.cpu_s) <= time.process_time()
    memory = value(metrics.resident_bytes.labels("3"))
    assert 0.9 < memory / PROCESS.memory_info().rss < 1.1
    assert value(metrics.cores) == allowed_cores()
