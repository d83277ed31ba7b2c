"""Closed-loop load over streams of the LSTM 2x256, made by `loadtests.frames` in a process of its own.

It knows the stream's first frame, processor times and the service's metrics, not RFC 6455.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.closedloop import Batching, Load, batching
from loadtests.models import FEATURES, OUTPUTS, STEP_MODEL
from loadtests.payloads import SEED
from loadtests.requirements import BenchError
from loadtests.serving import CoresWatch, Running, metrics
from service.launch import ROOT

FRAMES = 64


@dataclass(frozen=True)
class FrameLoad:
    """Binary frames of `steps` steps each, in `file`: float32 [frames, steps * features]."""

    file: Path
    steps: int

    @classmethod
    def write(cls, folder: Path, *, steps: int) -> FrameLoad:
        file = folder / f"frames-{steps}.npy"
        np.save(file, np.random.default_rng(SEED).normal(size=(FRAMES, steps * FEATURES)).astype(np.float32))
        return cls(file, steps)

    def run(
        self, server: Running, connections: int, seconds: float, *, answer_values: int, opening: str | None = None
    ) -> Load:
        """Load `server`, a frame at a time on each connection. Raises: BenchError when the generator fails."""
        command = [sys.executable, "-m", "loadtests.frames", f"{server.url}/v1/stream"]
        command += ["--connections", str(connections), "--seconds", str(seconds), "--payloads", str(self.file)]
        command += ["--answer-values", str(answer_values), *(["--opening", opening] if opening else [])]
        watch = CoresWatch(server)
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        cores = watch.used()
        if ended.returncode:
            raise BenchError(f"the generator of frames failed: {ended.stderr.strip()}")
        seen = json.loads(ended.stdout)
        answers_per_s = seen["answers"] / seen["elapsed_s"]
        return Load(
            answers=seen["answers"],
            requests_per_s=answers_per_s,
            items_per_s=answers_per_s * self.steps,
            p50_ms=seen["p50_us"] / 1e3,
            p99_ms=seen["p99_us"] / 1e3,
            errors=seen["errors"],
            cpu_us=1e6 * cores.server_s / max(1, seen["answers"] * self.steps),
            cores=cores,
        )

    def stream(self, service: Running, connections: int, seconds: float) -> tuple[Load, Batching]:
        """Load the service: each frame is answered with the outputs of its last step."""
        before, opening = metrics(service.url), json.dumps({"model": STEP_MODEL})
        load = self.run(service, connections, seconds, answer_values=OUTPUTS, opening=opening)
        return load, batching(before, metrics(service.url))
