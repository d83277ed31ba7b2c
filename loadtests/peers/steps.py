"""Closed-loop load of single steps: so many sessions, each sending its next step when it has its answer.

It knows sessions and processor times, not protocols. Invariant: what is returned was checked; every session's last
answer is that of an uninterrupted run of the graph over all of its steps.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from loadtests.models import HIDDEN, LAYERS
from loadtests.peers.environments import PeerError
from loadtests.peers.sessions import TIMEOUT_S, Session
from loadtests.serving import Running, cpu_seconds

Array = np.ndarray[Any, Any]
MOST_APART = 1e-4  # a batch may round differently from a single row; one step more or less is apart by 0.001 and more


@dataclass(frozen=True)
class StepLoad:
    """What one run saw; processor time is that of the server with all its processes, and of this client in cores."""

    steps_per_s: float
    p50_ms: float
    p99_ms: float
    server_us_per_step: float
    client_cores: float
    max_abs_error: float


def load_steps(
    server: Running, kind: type[Session], graph: Path, *, sessions: int, warm_s: float, seconds: float
) -> StepLoad:
    """Load `server` for `warm_s` and then, measured, for `seconds`. Raises: PeerError for a wrong answer."""
    with ExitStack() as open_sessions, selectors.DefaultSelector() as chooser:
        every = [open_sessions.enter_context(kind(server.url, number)) for number in range(sessions)]
        for session in every:
            chooser.register(session.socket, selectors.EVENT_READ, session)
            session.send()
        _go_on(chooser, warm_s)
        server_s, client_s, started = cpu_seconds(server.pid), time.process_time(), time.perf_counter()
        waits = _go_on(chooser, seconds)
        elapsed = time.perf_counter() - started
        server_s, client_s = cpu_seconds(server.pid) - server_s, time.process_time() - client_s
        for session in every:
            _finish(session)
        error = _largest_error(every, graph)
    if error > MOST_APART:
        raise PeerError(f"{kind.title}: a session's last answer is {error:.1e} from that of the graph over its steps")
    p50, p99 = np.percentile(waits, [50, 99])
    return StepLoad(
        steps_per_s=len(waits) / elapsed,
        p50_ms=1e3 * float(p50),
        p99_ms=1e3 * float(p99),
        server_us_per_step=1e6 * server_s / len(waits),
        client_cores=client_s / elapsed,
        max_abs_error=error,
    )


def _go_on(chooser: selectors.BaseSelector, seconds: float) -> list[float]:
    """Answer each answer with the next step for `seconds`, once at least; return how long each took, in seconds."""
    clock = time.perf_counter
    waits: list[float] = []
    end = clock() + seconds
    sent = dict.fromkeys(chooser.get_map(), end - seconds)
    while not waits or clock() < end:
        ready = chooser.select(TIMEOUT_S)
        if not ready:
            raise PeerError(f"no answer within {TIMEOUT_S:g} s")
        for key, _ in ready:
            if key.data.receive():
                now = clock()
                waits.append(now - sent[key.fd])
                sent[key.fd] = now
                key.data.send()
    return waits


def _finish(session: Session) -> None:
    """Wait for the step on its way, and take a last one."""
    while not session.receive():
        pass
    session.send(last=True)
    while not session.receive():
        pass


def _largest_error(sessions: Sequence[Session], graph: Path) -> float:
    """Return how far any session's last answer is from that of the graph over all of its steps."""
    most = max(session.steps for session in sessions)
    zeros = np.zeros((1, len(sessions), HIDDEN), np.float32)
    feeds = {f"{name}{layer}": zeros for name in "hc" for layer in range(LAYERS)}
    feeds |= {
        "x": np.stack([session.sent(most) for session in sessions]),
        "lengths": np.array([session.steps for session in sessions], np.int32),
    }
    (outputs,) = ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(["y"], feeds)
    return max(
        float(np.abs(session.outputs() - outputs[row, session.steps - 1]).max()) for row, session in enumerate(sessions)
    )
