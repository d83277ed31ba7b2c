"""How completions are shown: choices as OpenAI's API has them, whole or piece by piece, and the usage.

It knows forks and what a request asked to see, not how an answer travels. Invariant: the pieces of a choice, joined,
are the choice; its logarithms are those of the tokens that its text has.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from service.endpoints.stateful.generate.completion_schema import CompletionRequest
from service.endpoints.stateful.generate.generation import Fork, Likely
from service.endpoints.stateful.generate.openings import Opening
from service.engine.engine import Engine

LEAST = -9999.0  # where OpenAI's API has a logarithm of 0
REASONS = {"stop": "stop", "end": "stop", "length": "length", "error": None}


class Shown:
    """What is shown of one request's completions by a model; `head` is of the answer and of all events."""

    def __init__(self, request_id: str, body: CompletionRequest, engine: Engine, openings: Sequence[Opening]) -> None:
        manifest = engine.manifest
        self._body, self._openings = body, openings
        self._given: Counter[Fork] = Counter()  # characters
        self._last: dict[Fork, list[int]] = {}  # the id before those whose logarithms come next
        self.head: dict[str, Any] = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": manifest.name,
            "system_fingerprint": f"{manifest.name}-{manifest.version}",
        }

    def news(self, fork: Fork, state: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return a choice with what came since the last call; with its `state`, and how it ended, at the end."""
        assert fork.decoding is not None
        first = not self._given[fork]
        text = fork.decoding.take()
        if first and self._body.echo:
            text = self._body.prompts[fork.item] + text
        self._given[fork] += len(text)
        choice: dict[str, Any] = {
            "index": fork.item * (self._body.n or 1) + fork.number,
            "text": text,
            "finish_reason": REASONS[fork.finish] if fork.finish else None,
            "logprobs": None if self._body.logprobs is None else self._logprobs(fork),
        }
        return choice if state is None else {**choice, "seed": fork.seed, **state}

    def usage(self, forks: Sequence[Fork]) -> dict[str, int]:
        prompt, drawn = sum(opening.steps for opening in self._openings), sum(fork.steps for fork in forks)
        return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}

    def _logprobs(self, fork: Fork) -> dict[str, Any]:
        """Return the logarithms of the tokens whose text has been given; those of later ones stay."""
        given = self._given[fork]
        told = [each for each in fork.likely if each.place < given]
        fork.likely = fork.likely[len(told) :]
        entries = [self._entry(fork, each) for each in told]
        return {
            "tokens": [entry[each.id] for entry, each in zip(entries, told, strict=True)],
            "token_logprobs": [_log(each.share) for each in told],
            "top_logprobs": [
                {entry[token]: _log(share) for token, share in (*each.likeliest, (each.id, each.share))}
                for entry, each in zip(entries, told, strict=True)
            ],
            "text_offset": [each.place for each in told],
        }

    def _entry(self, fork: Fork, likely: Likely) -> dict[int, str]:
        """Return the names of the next token and of the likeliest in its place, which all differ: where two would add
        the same text, the later has its name in the vocabulary."""
        vocabulary = fork.engine.model.vocabulary
        assert vocabulary is not None
        before = self._last.get(fork) or self._openings[fork.item].ids[-1:]
        names: dict[int, str] = {}
        for token in (likely.id, *(token for token, _ in likely.likeliest)):
            if token not in names:
                name = vocabulary.name(token, before)
                names[token] = vocabulary.own_name(token) if name in names.values() else name
        self._last[fork] = [likely.id]
        return names


def _log(share: float) -> float:
    return math.log(share) if share else LEAST
