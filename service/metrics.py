"""Every metric of the service, declared once, in a registry of its own.

Of several workers each keeps its values in files of the directory PROMETHEUS_MULTIPROC_DIR, through prometheus_client,
and any of them renders the sum. It knows numbers and label values, not where they come from. Names are `baton_*`; times
are in seconds; a cell is one time step of one row in a run, padding included.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

LATENCY_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CELLS = (1, 8, 64, 256, 1024, 4096, 16_384, 65_536)
PADDING = (1.0, 1.05, 1.1, 1.15, 1.25, 1.5, 2, 4, 8)
STEPS = (1, 10, 100, 1000, 10_000, 100_000, 1_000_000)
SUCCESS, FAIL = "success", "fail"
RATIO = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)

T = TypeVar("T")


def share_metrics(directory: str) -> None:
    """Have metrics that are made from here on keep their values in `directory`, for all processes to show."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]  # as at its import, which was before


class Metrics:
    """The service's counters, gauges and histograms; one instance per application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._collecting = asyncio.Lock()
        self.requests = self._counter("requests", "Requests answered.", "endpoint", "status")
        self.request_s = self._histogram("request_seconds", "Time from request to answer.", LATENCY_S, "endpoint")
        self.rejected = self._counter("rejected", "Requests refused as a whole, by error code.", "cause")
        self.item_errors = self._counter(
            "item_errors", "Items refused within an answered batch, and frames of a stream that goes on.", "cause"
        )
        self.queue_rows = self._gauge("queue_rows", "Rows that wait or run.", "livesum", "model", "version")
        self.queue_s = self._histogram(
            "queue_seconds",
            "Wait of a request before its first run, or until its deadline passed.",
            LATENCY_S,
            "model",
            "version",
        )
        self.inference_s = Summary(
            "baton_inference_seconds",
            "Time from a request's queueing to its answer: success, or fail where a row failed or the deadline passed.",
            ("model", "version", "outcome"),
            registry=self.registry,
        )
        self.last_run_s = self._gauge(
            "last_run_timestamp_seconds", "When the last run ended, since 1970.", "max", "model", "version"
        )
        self.run_s = self._histogram(
            "run_seconds", "Time of one run, collation included.", LATENCY_S, "model", "version"
        )
        self.hung_runs = self._counter(
            "hung_runs", "Runs that took too long, for which the version was fenced off.", "model", "version"
        )
        self.run_threads = self._gauge(
            "run_threads", "Runs that may be at work at a time; 0 once unloaded.", "livesum", "model", "version"
        )
        self.batch_rows = self._histogram("batch_rows", "Rows per run.", ROWS, "model", "version")
        self.batch_cells = self._histogram("batch_cells", "Padded cells per run.", CELLS, "model", "version")
        self.padding = self._histogram("padding_ratio", "Padded over real cells of a run.", PADDING, "model", "version")
        self.steps = self._counter("steps", "Real time steps run, padding left out.", "model", "version")
        self.unknown = self._histogram("unknown_token_ratio", "Out-of-vocabulary share of a text.", RATIO, "model")
        self.tokens_issued = self._counter("tokens_issued", "State tokens sealed.", "model")
        self.tokens_opened = self._counter("tokens_opened", "State tokens opened, and states of sequences.", "model")
        self.tokens_rejected = self._counter(
            "tokens_rejected", "State tokens refused, and states of sequences, by precise reason.", "reason"
        )
        self.session_steps = self._histogram("session_steps", "Steps of a session when a token is sealed.", STEPS)
        self.held_states = self._gauge(
            "held_states", "States held in memory, or in the embedded store.", "livemostrecent"
        )
        self.held_bytes = self._gauge("held_bytes", "Memory, or room in the file, that they take.", "livemostrecent")
        self.evictions = self._counter("evictions", "Held states dropped: age, or space for newer ones.", "reason")
        self._held: dict[int, tuple[int, int]] = {}
        self.store_failures = self._counter("store_failures", "Failed calls of the store of held states.", "operation")
        self.rates_alone = self._counter(
            "rates_alone", "Times that a worker began to count calls for itself, since Redis did not answer."
        )
        self.tasks = self._gauge("tasks", "Tasks of the event loops.", "livesum")
        self.streams = self._gauge("streams", "Streams that are open.", "livesum")
        self.streams_closed = self._counter("streams_closed", "Streams that ended, by close code.", "code")
        self.stream_frames = self._counter("stream_frames", "Frames answered on streams, refused ones too.")
        self.generations = self._gauge("generations", "Requests whose sequences are being generated.", "livesum")
        self.generated = self._counter("generated_steps", "Steps whose ids were drawn.", "model")
        self.first_event_s = self._histogram(
            "first_event_seconds", "Time from a request to the first event of its stream.", LATENCY_S, "endpoint"
        )
        self.model_info = self._gauge(
            "model_info",
            "1 for each loaded model version, 0 once unloaded.",
            "livemax",
            "model",
            "version",
            "task",
        )
        self.worker_deaths = self._counter("worker_deaths", "Workers that died, or could not replace one that had.")
        self.resident_bytes = self._gauge(
            "resident_bytes",
            "Memory of a worker, by its number, and of the supervisor; what they share counts in each.",
            "livemostrecent",
            "worker",
        )
        self.cpu_s = self._counter("cpu_seconds", "Processor time of the workers and their supervisor.")
        self.cores = self._gauge("cores", "Cores that they may use; a CPU quota may give a part of one.", "livemax")
        self.reloads = self._counter(
            "reloads",
            "Reloads of the models directory, and orders to load or unload a model, by every worker: done or refused.",
            "outcome",
        )
        self.load_refused = self._gauge(
            "load_refused",
            "1 once a worker refused a reload, or an order to load, until its next that is done; else 0.",
            "livemax",
        )
        self.limits = self._gauge("limit", "The limits in force, in the unit of their setting.", "livemax", "name")

        self._of_requests = cache(self.requests.labels)
        self._refusals = cache(self.rejected.labels)
        self._times_of_requests = cache(self.request_s.labels)

    def answered(self, endpoint: str, status: int, seconds: float | None) -> None:
        """Count a request, and the time to its answer where that is a time to wait.

        Looking its labels up each time would cost more than counting it.
        """
        self._of_requests(endpoint, status).inc()
        if seconds is not None:
            self._times_of_requests(endpoint).observe(seconds)

    def show_held(self, store: int, states: int, bytes: int) -> None:
        """Show what a store holds, beside what others do."""
        self._held[store] = (states, bytes)
        self.held_states.set(sum(states for states, _ in self._held.values()))
        self.held_bytes.set(sum(bytes for _, bytes in self._held.values()))

    def refused(self, code: str) -> None:
        """Count a request that was refused as a whole."""
        self._refusals(code).inc()

    async def render(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        return await self._collect(generate_latest)

    async def read(self, *names: str) -> dict[tuple[str, ...], float]:
        """Return the values of these samples in all workers, by name and label values, labels in alphabetical order."""

        def values(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
            samples = (sample for metric in registry.collect() for sample in metric.samples)
            return {
                (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
                for sample in samples
                if sample.name in names
            }

        return await self._collect(values)

    async def _collect(self, work: Callable[[CollectorRegistry], T]) -> T:
        """Do work on the metrics of all workers, on a thread, for it takes many milliseconds; one at a time."""
        async with self._collecting:
            return await asyncio.to_thread(lambda: work(self._of_all_workers()))

    def _of_all_workers(self) -> CollectorRegistry:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return shared

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"baton_{name}", text, labels, registry=self.registry)

    def _gauge(
        self, name: str, text: str, of_workers: Literal["livesum", "livemax", "livemostrecent", "max"], *labels: str
    ) -> Gauge:
        return Gauge(f"baton_{name}", text, labels, registry=self.registry, multiprocess_mode=of_workers)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"baton_{name}", text, labels, buckets=buckets, registry=self.registry)


class ModelMetrics:
    """What one model version reports, with its labels bound once."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        self._all, self._model, self._version = metrics, model, version
        self._queue_rows = metrics.queue_rows.labels(model, version)
        self._queue_s = metrics.queue_s.labels(model, version)
        self._succeeded_s = metrics.inference_s.labels(model, version, SUCCESS)
        self._failed_s = metrics.inference_s.labels(model, version, FAIL)
        self._last_run_s = metrics.last_run_s.labels(model, version)
        self._run_s = metrics.run_s.labels(model, version)
        self._hung_runs = metrics.hung_runs.labels(model, version)
        self._batch_rows = metrics.batch_rows.labels(model, version)
        self._batch_cells = metrics.batch_cells.labels(model, version)
        self._padding = metrics.padding.labels(model, version)
        self._steps = metrics.steps.labels(model, version)
        self._unknown = metrics.unknown.labels(model)
        self._tokens_opened = metrics.tokens_opened.labels(model)
        self._tokens_issued = metrics.tokens_issued.labels(model)
        self._session_steps = metrics.session_steps
        self._generated = metrics.generated.labels(model)

    def hung(self) -> None:
        self._hung_runs.inc()

    def show_threads(self, threads: int) -> None:
        self._all.run_threads.labels(self._model, self._version).set(threads)

    def of_start_graph(self) -> ModelMetrics:
        """Return the same for the version's start graph, which has rows and runs of its own."""
        return ModelMetrics(self._all, f"{self._model}/start", self._version)

    def text_read(self, unknown_ratio: float) -> None:
        self._unknown.observe(unknown_ratio)

    def token_opened(self) -> None:
        self._tokens_opened.inc()

    def token_issued(self, session_steps: int) -> None:
        self._tokens_issued.inc()
        self._session_steps.observe(session_steps)

    def drew(self, ids: int) -> None:
        self._generated.inc(ids)

    def queued(self, rows: int) -> None:
        self._queue_rows.set(rows)

    def answered(self, queue_s: float, run_s: float, *, failed: bool) -> None:
        self._queue_s.observe(queue_s)
        (self._failed_s if failed else self._succeeded_s).observe(queue_s + run_s)

    def ran(self, rows: int, cells: int, padded_cells: int, run_s: float) -> None:
        self._last_run_s.set(time.time())
        self._run_s.observe(run_s)
        self._batch_rows.observe(rows)
        self._batch_cells.observe(padded_cells)
        self._padding.observe(padded_cells / cells)
        self._steps.inc(cells)
