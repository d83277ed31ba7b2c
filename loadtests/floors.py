"""The in-process limits: what a loop over ONNX Runtime, tokenizers and numpy reaches, without HTTP, JSON or a queue.

Each is one loop on one core; `loadtests.together` runs it on every core. They are written directly on the libraries,
with the service's session settings, and not on the service's code, so that a limit does not rise and fall with what it
is to measure; the tokens alone are the service's. Rows of like length run together.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tokenizers import Encoding, Tokenizer

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

from service.state.keys import KeyRing
from service.state.token import Sealer, new_session_id

Array = np.ndarray[Any, np.dtype[Any]]
WINDOW = 1024  # items whose rows are sorted by length before they are cut into batches
BATCHES = (8, 16, 32, 64, 128, 256)
TRIAL_S = 0.7
TOKEN_KEY = "A" * 43  # 32 zero bytes in base64url
TENANT = ""


class Limit(Protocol):
    """A loop that can be timed: `advance` does some items and returns how many, `facts` tells what it settled on."""

    def advance(self) -> int: ...

    def facts(self) -> dict[str, float]:
        return {}


def rate(limit: Limit, seconds: float) -> float:
    """Return items per second of `limit`, run for `seconds` and then to the end of its window."""
    started, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        done += limit.advance()
    return done / elapsed


class RaggedLimit(Limit):
    """Items to rows of any length, each window sorted by length, run in batches of `batch`, split into answers."""

    def __init__(
        self, directory: Path, items: Iterable[Any], read: Callable[[Sequence[Any]], Sequence[Sequence[float]]]
    ) -> None:
        self._manifest = json.loads((directory / "manifest.json").read_text())
        self._session = open_session(directory / self._manifest["file"])
        self._sequence, self._lengths = self._manifest["inputs"][0], self._manifest["lengths"]
        self._items, self._read = cycle(items), read
        self._cells = self._padded_cells = 0
        best = max(BATCHES, key=self._try)
        self.batch, self._cells, self._padded_cells = best, 0, 0

    def facts(self) -> dict[str, float]:
        """Return the best batch, and padded over real cells so far."""
        return {"batch": self.batch, "padding": self._padded_cells / self._cells}

    def _try(self, batch: int) -> float:
        self.batch = batch
        return rate(self, TRIAL_S)

    def advance(self) -> int:
        rows = self._read(list(islice(self._items, WINDOW)))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        answers: list[list[Array] | None] = [None] * len(rows)
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            tensors = self._session.run(None, self._collate([rows[index] for index in part]))
            for place, index in enumerate(part):
                answers[index] = [tensor[place] for tensor in tensors]
        return len(answers)

    def _collate(self, rows: list[Sequence[float]]) -> dict[str, Array]:
        lengths = np.array([len(row) for row in rows], np.int32)
        steps = np.zeros((len(rows), lengths.max(), *self._sequence["shape"][2:]), self._sequence["dtype"])
        for place, row in enumerate(rows):
            steps[place, : len(row)] = row
        self._cells += int(lengths.sum())
        self._padded_cells += steps.shape[0] * steps.shape[1]
        declared = self._manifest.get("constants", {})
        constants = {name: np.array(value, np.float32) for name, value in declared.items()}
        return {self._sequence["name"]: steps, self._lengths: lengths, **constants}


def sentiment_limit(directory: Path, texts: Iterable[str]) -> RaggedLimit:
    """Texts a second: tokenised together, run, split."""
    manifest = json.loads((directory / "manifest.json").read_text())
    tokenizer = Tokenizer.from_file(str(directory / manifest["text"]["tokenizer"]))
    tokenizer.enable_truncation(manifest["text"]["max_length"])
    return RaggedLimit(directory, texts, lambda window: [e.ids for e in tokenizer.encode_batch(window)])


def tag_limit(directory: Path, texts: Iterable[str]) -> RaggedLimit:
    """Texts a second: tokenised together with the places of tokens, spelled where the model reads characters, run,
    split."""
    text = json.loads((directory / "manifest.json").read_text())["text"]
    tokenizer = Tokenizer.from_file(str(directory / text["tokenizer"]))
    if text.get("characters") is None:
        return RaggedLimit(directory, texts, lambda window: [e.ids for e in _encoded(tokenizer, window)])
    spelled = Spelled(**text["characters"])
    return RaggedLimit(
        directory,
        texts,
        lambda window: [
            np.array([[each, *spelled[text[start:end]]] for each, (start, end) in zip(e.ids, e.offsets, strict=True)])
            for text, e in zip(window, _encoded(tokenizer, window), strict=True)
        ],
    )


def _encoded(tokenizer: Tokenizer, window: Sequence[str]) -> list[Encoding]:
    encodings: list[Encoding] = tokenizer.encode_batch(window, add_special_tokens=False)
    return encodings


class Spelled(dict[str, list[int]]):
    """The ids of the characters of words, each made once."""

    def __init__(self, alphabet: str, width: int) -> None:
        self._ids, self._width = {character: 2 + place for place, character in enumerate(alphabet)}, width

    def __missing__(self, word: str) -> list[int]:
        head, width = self._width // 2, self._width
        kept = word if len(word) <= width else word[:head] + word[head - width :]
        self[word] = [self._ids.get(character, 1) for character in kept] + [0] * (width - len(kept))
        return self[word]


def ids_limit(directory: Path, rows: Iterable[Array]) -> RaggedLimit:
    """Rows of ids a second: run, split."""
    return RaggedLimit(directory, rows, lambda window: window)


def forecast_limit(directory: Path, series: Iterable[list[float]]) -> RaggedLimit:
    """Series a second: cut to what the model reads, run, split."""
    manifest = json.loads((directory / "manifest.json").read_text())
    longest = manifest["forecast"]["max_history"]
    arrays = [np.array(values, manifest["inputs"][0]["dtype"]) for values in series]
    return RaggedLimit(directory, arrays, lambda window: [values[-longest:] for values in window])


class StepLimit(Limit):
    """One step of `sessions` sessions at a time: tokens opened, states collated, run, split, sealed again."""

    def __init__(self, directory: Path, steps: list[list[list[float]]], sessions: int) -> None:
        self._manifest = json.loads((directory / "manifest.json").read_text())
        self._session = open_session(directory / self._manifest["file"])
        self._states = self._manifest["states"]
        self._widths = [state["shape"][2] for state in self._states]
        self._tokens = Tokens()
        empty = np.zeros(sum(self._widths), np.float32).tobytes()
        self._names = [self._manifest["outputs"][0]["name"], *(state["output"] for state in self._states)]
        self._inputs = cycle(np.array(steps, np.float32).reshape(-1, sessions, 1, len(steps[0][0])))
        self._carried = [self._tokens.seal(empty) for _ in range(sessions)]
        self._ones = np.ones(sessions, np.int32)

    def advance(self) -> int:
        rows = np.stack([np.frombuffer(self._tokens.open(token), np.float32) for token in self._carried])
        feeds = {self._manifest["inputs"][0]["name"]: next(self._inputs), self._manifest["lengths"]: self._ones}
        places = np.cumsum(self._widths)[:-1]
        for state, part in zip(self._states, np.split(rows, places, axis=1), strict=True):
            feeds[state["input"]] = part[np.newaxis]
        output, *states = self._session.run(self._names, feeds)
        answers = [output[place, -1] for place in range(len(rows))]
        carried = np.concatenate([state[0] for state in states], axis=1)
        self._carried = [self._tokens.seal(row.tobytes()) for row in carried]
        return len(answers)


class RunLimit(Limit):
    """Chunks of sessions in runs of `batch`, states fed back as the tensors they are: the model, and nothing around it.

    Shapes: chunks [chunks, steps * features].
    """

    def __init__(self, directory: Path, chunks: Array, batch: int) -> None:
        manifest = json.loads((directory / "manifest.json").read_text())
        self._session = open_session(directory / manifest["file"])
        features = manifest["inputs"][0]["shape"][2]
        rows = cycle(chunks.reshape(len(chunks), -1, features))
        self._batches = cycle([np.stack(list(islice(rows, batch))) for _ in chunks])
        self._sequence, self._states = manifest["inputs"][0]["name"], manifest["states"]
        self._names = [manifest["outputs"][0]["name"], *(state["output"] for state in self._states)]
        self._steps = batch * chunks.shape[1] // features
        self._feeds = {manifest["lengths"]: np.full(batch, chunks.shape[1] // features, np.int32)}
        for state in self._states:
            self._feeds[state["input"]] = np.zeros([1, batch, state["shape"][2]], np.float32)

    def advance(self) -> int:
        self._feeds[self._sequence] = next(self._batches)
        _, *states = self._session.run(self._names, self._feeds)
        for state, carried in zip(self._states, states, strict=True):
            self._feeds[state["input"]] = carried
        return self._steps


class Tokens:
    """The service's own tokens; the only place here that knows how they are made."""

    def __init__(self) -> None:
        self._sealer = Sealer(KeyRing([TOKEN_KEY]), ttl_s=86_400, skew_s=0)
        self._id, self._fingerprint = new_session_id(), bytes(16)

    def seal(self, state: bytes) -> bytes:
        token, _ = self._sealer.seal(state, session_id=self._id, step=1, fingerprint=self._fingerprint, tenant=TENANT)
        return token

    def open(self, token: bytes) -> bytes:
        return self._sealer.open(token, tenant=TENANT).payload


class TokenLimit(Limit):
    """A state of `size` bytes, sealed and opened."""

    def __init__(self, size: int) -> None:
        self._tokens, self._state = Tokens(), bytes(size)

    def advance(self) -> int:
        self._tokens.open(self._tokens.seal(self._state))
        return 1


class CipherLimit(Limit):
    """The same bytes encrypted and decrypted with AES-256-GCM under one key, and nothing else."""

    def __init__(self, size: int) -> None:
        self._cipher, self._nonce, self._state = AESGCM(bytes(32)), bytes(12), bytes(size)

    def advance(self) -> int:
        self._cipher.decrypt(self._nonce, self._cipher.encrypt(self._nonce, self._state, None), None)
        return 1


def open_session(file: Path, providers: Sequence[Any] = ("CPUExecutionProvider",)) -> ort.InferenceSession:
    """Return a session with the service's settings, and one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    return ort.InferenceSession(file, options, providers=providers)
