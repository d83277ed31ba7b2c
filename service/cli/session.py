"""A session of a step model: its state, carried from one request to the next.

It knows /v1/step and what a model takes and gives, not where steps come from. Invariant: the state is that after the
last step whose outputs were returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from service.cli.api import Api, Refusal
from service.errors import CommandError

AXES = {"batch", "time"}
EMPTY = "empty_input"
Step = float | list[float] | str


class Session:
    """Steps of `model`, from `state` on, or from the beginning; `step` counts those that were taken.

    A session of a model that needs a condition begins from the text `begin`; `warnings` say why that is doubtful.
    """

    def __init__(self, api: Api, model: str, state: str | None = None, begin: str | None = None) -> None:
        """Raises: Refusal for a model that is not served; CommandError for one that takes no steps."""
        self._api, self._facts = api, api.get(f"/v1/models/{quote(model, safe='')}")
        if "step" not in self._facts["answers"]:
            raise CommandError(f"{model} takes no steps; its task is {self._facts['task']}")
        self.model, self.state, self.begin = model, state, begin
        self.step, self.expires_at, self.warnings = 0, "", list[str]()

    @property
    def member(self) -> str:
        """The member of a request that holds the steps: text, values, or inputs, which are rows."""
        if self._facts["text"] is not None:
            return "text"
        return "values" if self.features is None else "inputs"

    @property
    def features(self) -> int | None:
        """The numbers of a step; None for one that is no row."""
        sizes = [size for size in self._facts["inputs"][0]["shape"] if size not in AXES]
        return sizes[0] if sizes else None

    @property
    def outputs(self) -> list[str]:
        return [output["name"] for output in self._facts["outputs"]]

    def take(self, steps: Sequence[Step]) -> Iterator[list[dict[str, Any]]]:
        """Take the steps, so many together as a request may hold; yield what each answered, by names.

        Texts are taken as one; each token is a step, and is named. A session may begin without any.

        Raises: Refusal.
        """
        for group in self._groups(steps):
            yield self._send(group)

    def _groups(self, steps: Sequence[Step]) -> Iterator[Any]:
        most = self._api.limits["max_steps"]
        if not steps and self.begin is not None:
            yield None
            return
        if self.member != "text":
            yield from (steps[start : start + most] for start in range(0, len(steps), most))
            return
        group = ""
        for text in map(str, steps):
            if group and len(group) + len(text) > most:  # a token has a character at least
                yield group
                group = ""
            group += text
        yield group

    def _send(self, steps: Any) -> list[dict[str, Any]]:
        item = {**({} if steps is None else {self.member: steps}), **self._start()}
        answer = self._api.post("/v1/step", {"model": self.model, "return": "all", "items": [item]})
        (result,) = answer["results"]
        if "error" in result:
            empty = result["error"]["code"] == EMPTY  # a text without tokens, such as a blank line, is no step
            if empty and self.begin is None:
                return []
            raise Refusal(result["error"])
        self.state, self.step, self.expires_at = result["state"], result["step"], result["expires_at"]
        self.begin = None
        self.warnings += result.get("warnings", ())
        named = {output["name"]: output.get("labels") for output in self._facts["outputs"]}
        columns = [[_labelled(named[name], value) for value in values] for name, values in result["outputs"].items()]
        made = [dict(zip(result["outputs"], row, strict=True)) for row in zip(*columns, strict=True)]
        tokens = result.get("tokens")
        return made if tokens is None else [{"token": token, **row} for token, row in zip(tokens, made, strict=True)]

    def _start(self) -> dict[str, Any]:
        """Return the members of a request that say where its steps begin."""
        begin = None if self.begin is None else {"text": self.begin}
        return {name: value for name, value in (("state", self.state), ("begin", begin)) if value is not None}


def _labelled(labels: Sequence[str] | None, value: Any) -> Any:
    return value if labels is None else dict(zip(labels, value, strict=True))
