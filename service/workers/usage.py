"""What a process of the service takes of the machine, for the metrics.

It knows what Linux tells, not what is served. Invariant: no processor time counts twice.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

from service.metrics import Metrics
from service.workers.cores import allowed_cores

PAGES = Path("/proc/self/statm")
RESIDENT = 1  # the field of it, as proc(5) has them


class Usage:
    """Shows what this process takes whenever `show` is called, and of which cores; `worker` is its name."""

    def __init__(self, metrics: Metrics, worker: str) -> None:
        metrics.cores.set(allowed_cores())
        self._memory, self._cpu_s = metrics.resident_bytes.labels(worker), metrics.cpu_s
        self._counted_s = 0.0

    def show(self) -> None:
        self._memory.set(int(PAGES.read_text().split()[RESIDENT]) * resource.getpagesize())
        used_s = time.process_time()
        self._cpu_s.inc(used_s - self._counted_s)
        self._counted_s = used_s
