"""How fast a device is by batch, beside one core of the CPU; and what it gains when states stay on it between steps.

It knows the two references of `loadtests.models`, not the committed models. Invariant: a rate is of answers that were
compared: states that stayed on the device give what states that were copied give.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from loadtests.floors import Array, open_session
from loadtests.gpu_parity import answers
from loadtests.models import FEATURES, GRAPH_FILE, LENGTHS, STEP_MODEL, TEXT_MODEL, WORDS, engine_of, text_of
from service.engine.engine import Engine
from service.engine.rows import Row
from service.errors import BatonError
from service.model.onnx_session import PROVIDER_OPTIONS, choose_providers

BATCHES = (1, 8, 32, 128, 512)
WORDS_A_TEXT = 20
COMPARED_STEPS = 16
CLOSE = 1e-4  # copies change nothing, but what a GPU adds up first may change from run to run


def rate(advance: Callable[[], int], seconds: float) -> float:
    """Return how many a second `advance` does, after a first time that is not counted."""
    advance()
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        done += advance()
    return done / (time.perf_counter() - started)


class Steps:
    """Sessions of the LSTM 2x256 that step together, in runs of `batch`; `device` is cpu or cuda.

    With `kept` their states stay where the graph runs (IO binding), otherwise each run copies them in and out.
    """

    def __init__(self, models: Path, device: str, batch: int, *, kept: bool) -> None:
        providers = [(name, PROVIDER_OPTIONS[name]) for name in choose_providers(device)]
        self._session = open_session(models / STEP_MODEL / "1" / GRAPH_FILE, providers)
        self._device, self._batch = device, batch
        self._states = [(node.name, f"{node.name}_out") for node in self._session.get_inputs()[2:]]
        sizes = {node.name: node.shape[2] for node in self._session.get_inputs()[2:]}
        zeros: dict[str, Array] = {name: np.zeros((1, batch, sizes[name]), np.float32) for name, _ in self._states}
        self._lengths, self._rng = np.ones(batch, np.int32), np.random.default_rng(0)
        self._step = self._step_kept if kept else self._step_copied
        self._held: dict[str, Any] = zeros
        if kept:
            self._held = {name: ort.OrtValue.ortvalue_from_numpy(value, device) for name, value in zeros.items()}
            self._binding = self._session.io_binding()

    def advance(self) -> int:
        """Take a step in every session; return how many these are."""
        self.step()
        return self._batch

    def step(self) -> Array:
        """Take the next step in every session. Shapes: returns [batch, 1, outputs]."""
        return self._step(self._rng.normal(size=(self._batch, 1, FEATURES)).astype(np.float32))

    def _step_copied(self, x: Array) -> Array:
        feeds = {"x": x, LENGTHS.name: self._lengths, **self._held}
        y, *states = self._session.run(["y", *(output for _, output in self._states)], feeds)
        self._held = {name: state for (name, _), state in zip(self._states, states, strict=True)}
        made: Array = y
        return made

    def _step_kept(self, x: Array) -> Array:
        self._binding.bind_cpu_input("x", x)
        self._binding.bind_cpu_input(LENGTHS.name, self._lengths)
        self._binding.bind_output("y", "cpu")
        for name, output in self._states:
            self._binding.bind_ortvalue_input(name, self._held[name])
            self._binding.bind_output(output, self._device)
        self._session.run_with_iobinding(self._binding)
        y, *states = self._binding.get_outputs()
        self._held = {name: state for (name, _), state in zip(self._states, states, strict=True)}
        made: Array = y.numpy()
        return made


def kept_beside_copied(models: Path, device: str, seconds: float) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield for each batch the steps a second of states kept on the device, and copied each run.

    Units: `seconds` for all batches. Raises: BatonError when the two do not answer alike.
    """
    for batch in BATCHES:
        both = {kept: Steps(models, device, batch, kept=kept) for kept in (True, False)}
        for _ in range(COMPARED_STEPS):
            if not np.allclose(both[True].step(), both[False].step(), rtol=CLOSE, atol=CLOSE):
                raise BatonError(f"a batch of {batch} answers otherwise when its states stay on the device")
        share_s = seconds / len(BATCHES) / 2
        kept, copied = (rate(both[kept].advance, share_s) for kept in (True, False))
        yield batch, {"kept_per_s": kept, "copied_per_s": copied, "ratio": kept / copied}


def steps_beside_cpu(models: Path, device: str, seconds: float) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield for each batch the steps a second on the device, and on a core of the CPU; each run copies the states."""
    for batch in BATCHES:
        here, cpu = (Steps(models, each, batch, kept=False) for each in (device, "cpu"))
        yield batch, _beside(here.advance, cpu.advance, seconds)


def texts_beside_cpu(models: Path, device: str, seconds: float) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield for each batch the texts a second of the BiLSTM 2x128, tokenised, run and split by the service's engine."""
    rng, engines = np.random.default_rng(0), [engine_of(models / TEXT_MODEL / "1", each) for each in (device, "cpu")]
    for batch in BATCHES:
        texts = [text_of(rng.integers(1, WORDS, WORDS_A_TEXT).tolist()) for _ in range(batch)]
        here, cpu = (_reader(engine, texts) for engine in engines)
        yield batch, _beside(here, cpu, seconds)


def _reader(engine: Engine, texts: list[str]) -> Callable[[], int]:
    def read() -> int:
        rows = [Row(text=text, max_tokens=WORDS_A_TEXT) for text in texts]
        engine.prepare(rows)
        return len(answers(engine, rows))

    return read


def _beside(here: Callable[[], int], cpu: Callable[[], int], seconds: float) -> dict[str, float]:
    share_s = seconds / len(BATCHES) / 2
    here_per_s, cpu_per_s = rate(here, share_s), rate(cpu, share_s)
    return {"device_per_s": here_per_s, "cpu_per_s": cpu_per_s, "ratio": here_per_s / cpu_per_s}
