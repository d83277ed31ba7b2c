"""Requests of random shapes to every kind of endpoint, from a fixed seed, over the committed models.

It knows the API's forms, not connections. Invariant: whatever it draws is to be answered in full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.payloads import HORIZON, read_series, read_texts

MAX_ITEMS, MAX_WORDS, MAX_STEPS = 64, 200, 64
MAX_WRITTEN, MAX_CHOICES = 48, 4  # steps and choices of a generation
SERIES_LENGTHS = (8, 512)  # what the committed model needs and reads
SESSIONS = 512  # the newest of each model, that later requests go on from
SEQUENCES = 64  # by id, over /v2
V2_MODEL = "forecast-live"
Request = tuple[str, dict[str, Any]]


class Shapes:
    """An endless source of requests; answers to steps are given back to `keep`, so that later steps go on from them."""

    def __init__(self, data: Path, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._words = " ".join(read_texts(data)).split()
        self._series = read_series(data)
        self._tokens: dict[str, deque[str]] = {
            name: deque(maxlen=SESSIONS) for name in ("forecast-live", "sentiment-live")
        }
        self._kinds: tuple[Callable[[int], Request], ...] = (
            *(self._texts, self._labels, self._tags, self._forecast, self._transform),
            *(self._numbers, self._words_in_steps, self._generated, self._completed, self._tensors, self._sequence),
        )

    def draw(self) -> Request:
        return self._kinds[self._rng.integers(len(self._kinds))](self._skewed(1, MAX_ITEMS))

    def keep(self, body: dict[str, Any], answer: dict[str, Any]) -> None:
        tokens = self._tokens.get(body.get("model", ""))
        if tokens is not None:
            tokens.extend(result["state"] for result in answer["results"])

    def history(self, least: int = 1, most: int = MAX_STEPS) -> list[float]:
        """Draw so many values of a series."""
        whole = self._series[self._rng.integers(len(self._series))]
        return whole[-self._skewed(least, most) :]

    def _skewed(self, least: int, most: int) -> int:
        """Draw from `least` to `most`, every factor of two as likely as any other."""
        return int(np.exp(self._rng.uniform(np.log(least), np.log(most + 1))))

    def _text(self, max_words: int) -> str:
        length = self._skewed(1, max_words)
        start = self._rng.integers(len(self._words) - length)
        return " ".join(self._words[start : start + length])

    def _texts(self, items: int) -> Request:
        return "/v1/sentiment", {"inputs": [self._text(MAX_WORDS) for _ in range(items)]}

    def _labels(self, items: int) -> Request:
        return "/v1/classify", {"model": "spam", "items": [{"text": self._text(MAX_WORDS)} for _ in range(items)]}

    def _tags(self, items: int) -> Request:
        return "/v1/tag", {"model": "tagger", "inputs": [self._text(MAX_WORDS // 4) for _ in range(items)]}

    def _forecast(self, items: int) -> Request:
        series = [{"values": self.history(*SERIES_LENGTHS)} for _ in range(items)]
        return "/v1/forecast", {"series": series, "horizon": HORIZON}

    def _transform(self, items: int) -> Request:
        return "/v1/transform", {"model": "denoise", "items": [{"values": self.history()} for _ in range(items)]}

    def _numbers(self, items: int) -> Request:
        steps = [{"values": self.history()} for _ in range(items)]
        return "/v1/step", {"model": "forecast-live", "items": self._resumed("forecast-live", steps)}

    def _words_in_steps(self, items: int) -> Request:
        steps = [{"text": self._text(MAX_STEPS)} for _ in range(items)]
        held = {"hold": "server"} if self._rng.random() < 0.5 else {}
        return "/v1/step", {"model": "sentiment-live", "items": self._resumed("sentiment-live", steps), **held}

    def _generated(self, items: int) -> Request:
        prompts = [{"prompt": self._text(8)} for _ in range(1 + items // 16)]
        limits = {"max_steps": self._skewed(1, MAX_WRITTEN), "n": int(self._rng.integers(1, MAX_CHOICES + 1))}
        return "/v1/generate", {"model": "charlm", "items": prompts, **limits, "seed": int(self._rng.integers(2**31))}

    def _completed(self, items: int) -> Request:
        tokens = self._skewed(1, MAX_WRITTEN)
        return "/v1/completions", {"model": "charlm", "prompt": self._text(8), "max_tokens": tokens, "n": 1 + items % 2}

    def _tensors(self, items: int) -> Request:
        texts = {"name": "text", "datatype": "BYTES", "shape": [items]}
        return "/v2/models/spam/infer", {"inputs": [{**texts, "data": [self._text(MAX_WORDS) for _ in range(items)]}]}

    def _sequence(self, items: int) -> Request:
        """A step of a sequence that begins anew: which steps came before it depends on other clients."""
        values = self.history()
        tensor = {"name": "values", "datatype": "FP64", "shape": [1, len(values)], "data": values}
        number = int(self._rng.integers(1, SEQUENCES + 1))
        parameters = {"sequence_id": number, "sequence_start": True, "sequence_end": items % 2 == 0}
        return f"/v2/models/{V2_MODEL}/infer", {"inputs": [tensor], "parameters": parameters}

    def _resumed(self, model: str, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Let about half of the items go on from a session, if there is one."""
        tokens = self._tokens[model]
        return [
            {**item, "state": tokens[self._rng.integers(len(tokens))]} if tokens and self._rng.random() < 0.5 else item
            for item in items
        ]
