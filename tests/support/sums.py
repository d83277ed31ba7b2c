"""A service in a few lines whose model sums its inputs, for tests of what real servers do seldom or slowly."""

from __future__ import annotations

import json
from collections import deque

REFUSED = -1.0


class Sum:
    """One stream; a token is the state in the clear. No sum that 3 divides can be asked for as a token.

    `heard` and `said` are frames on their way to it and from it.
    """

    def __init__(self, opening: str) -> None:
        wanted = json.loads(opening)
        self._every = wanted["checkpoint_every"]
        self._step, self._sum = json.loads(wanted.get("state", "[0, 0]"))
        self._carried = self._step
        self.heard: deque[str] = deque()
        self.said: deque[str] = deque()
        outputs = [{"name": "sum", "dtype": "float32", "shape": []}]
        self._say("open", version="1", features=None, dtype="float32", outputs=outputs)

    def _say(self, kind: str, **members: object) -> None:
        self.said.append(json.dumps({"type": kind, "step": self._step, **members}))

    def checkpoint(self) -> None:
        if self._step > self._carried:
            self._say("checkpoint", asked=False, state=json.dumps([self._step, self._sum]))
            self._carried = self._step

    def refuse(self, code: str, *, final: bool = False) -> None:
        self._say("error", final=final, error={"code": code, "message": f"at the sum {self._sum}"})

    def serve(self) -> None:
        frame = json.loads(self.heard.popleft())
        if "checkpoint" in frame:
            if self._sum % 3:
                self._say("checkpoint", asked=True, state=json.dumps([self._step, self._sum]))
                self._carried = self._step
            else:
                self.refuse("precision_too_low")
        elif frame["values"] == [REFUSED]:
            self.refuse("not_finite")
        else:
            self._step, self._sum = self._step + 1, self._sum + frame["values"][0]
            self._say("step", outputs={"sum": self._sum})
            if self._step - self._carried >= self._every:
                self.checkpoint()
