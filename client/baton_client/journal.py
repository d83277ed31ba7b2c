"""The bookkeeping of a stream: what was sent since the last checkpoint, and which outputs the caller has.

It does no input or output and knows no clock: frames go in and out as messages, so that it serves any connection.
Invariants: an input stays here until a checkpoint covers it; the caller gets each answer once, in order, however often
its input is sent; the steps that the server counts are those counted here.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

from baton_client.errors import INTERNAL, ITEM_TOO_LARGE, ApiError, ProtocolError, StreamInterrupted, Unreachable
from baton_client.frames import CHECKPOINT, Format, read_frame, shown
from baton_client.inputs import Array, Inputs
from baton_client.results import StepOutput


@dataclass(eq=False, slots=True)
class Entry:
    """A frame to be answered: an input, or where that is None the request for a checkpoint.

    `step` is where the session stood after it, once that is known; `answer` is what a request for a checkpoint got;
    `refused` says why it is not sent any more.
    """

    inputs: Array | str | None
    step: int | None = None
    answer: str | ApiError | None = None
    refused: ApiError | None = None


News = StepOutput | ApiError
"""What the caller has not seen before: an output, or the error of a refused input."""


class Journal:
    """The inputs of a stream since its last checkpoint.

    On each connection the entries are sent from the first on. Four marks run through them: `_sent` and `_answered` on
    this connection, `_delivered` over all of them; answers below the last are replayed, and are dropped. How far a
    replay ever got is `_replayed`. `progress` grows with every output, refusal and checkpoint that is new, `reached`
    with these and where a replay gets further than those before it.
    """

    def __init__(self, opening: dict[str, Any], *, binary: bool) -> None:
        self._opening, self._binary = opening, binary
        self._format: Format | None = None  # of the frames, once a connection was opened
        self._version = ""  # of the model, on this connection
        self.step_count = self.progress = self.reached = 0
        self._step = 0  # of the session after the last answer on this connection
        self._entries: deque[Entry] = deque()
        self._sent = self._answered = self._delivered = self._replayed = 0
        self._failed: tuple[object, ...] = ()  # what failed inside the service, how, and after which progress

    @property
    def state(self) -> str | None:
        """The token of the last checkpoint, else that with which the stream began."""
        state: str | None = self._opening.get("state")
        return state

    @property
    def version(self) -> str | None:
        """The version that a session without a token begins again with: that of the outputs that the caller has, else
        the one that was asked for, if any."""
        asked: str | None = self._opening.get("version")
        return self._version if self._delivered and self.state is None else asked

    @property
    def unacknowledged(self) -> list[Array | str]:
        """The inputs that no checkpoint covers."""
        return [entry.inputs for entry in self._entries if entry.inputs is not None]

    @property
    def answered(self) -> int:
        """How many of the unacknowledged inputs were answered to the caller."""
        return sum(1 for entry in islice(self._entries, self._delivered) if entry.inputs is not None)

    def interrupted(self, reason: object) -> StreamInterrupted:
        """Return the error that says where the stream stands, with all that is needed to go on."""
        return StreamInterrupted(
            reason,
            state=self.state,
            version=self.version,
            step_count=self.step_count,
            unacknowledged=self.unacknowledged,
            answered=self.answered,
        )

    def add(self, inputs: Inputs) -> None:
        """Keep a copy of the inputs of the next frame. Raises: ValueError for what no frame can hold."""
        self._entries.append(Entry(self._entered().copied(inputs)))

    def ask_checkpoint(self) -> Entry:
        """Ask for a checkpoint after the inputs so far; its `answer` will be set."""
        self._entered()
        self._entries.append(Entry(None))
        return self._entries[-1]

    def _entered(self) -> Format:
        if self._format is None:
            raise RuntimeError("the stream was not entered; use it as a context manager")
        return self._format

    # -- to the server --------------------------------------------------------------------------------------------

    def opening(self) -> str:
        """Return the first frame of a connection."""
        version = {} if self.version is None else {"version": self.version}
        return json.dumps({**self._opening, **version})

    def next_frame(self) -> str | bytes | None:
        """Return the next frame that this connection has not sent, if there is one."""
        while self._sent < len(self._entries):
            entry = self._entries[self._sent]
            self._sent += 1
            if entry.refused is None:
                return self._frame(entry)
        return None

    def _frame(self, entry: Entry) -> str | bytes:
        return CHECKPOINT if entry.inputs is None else self._entered().write(entry.inputs)

    # -- from the server ------------------------------------------------------------------------------------------

    def opened(self, message: str | bytes) -> list[News]:
        """Take the answer to the opening: the connection goes on from the last token.

        Raises: ApiError, Unreachable or ProtocolError.
        """
        frame, before = read_frame(message), self._format
        if frame["type"] == "error":
            raise _ending(ApiError(frame["error"]))
        known = before is not None or self.state is None
        if frame["type"] != "open" or (known and frame["step"] != self.step_count):
            raise ProtocolError(f"the opening at step {self.step_count} was answered by {shown(frame)}")
        if before is not None and frame["features"] != before.features:
            raise ProtocolError(f"steps of {before.features} features are to go on as steps of {frame['features']}")
        self.step_count = self._step = frame["step"]
        self._version = frame["version"]
        self._format = Format(frame, binary=self._binary, returns_all=self._opening["return"] == "all")
        self._sent = self._answered = 0
        return self._refused_next()

    def receive(self, message: str | bytes) -> list[News]:
        """Take an answer and return what of it is new.

        Raises: ApiError or Unreachable when it announces the end of this connection; StreamInterrupted when the service
        failed again where it had failed before; ProtocolError.
        """
        if isinstance(message, bytes):
            return self._answer(self._entered().read_binary(message, self._next().inputs, self._step))
        frame = read_frame(message)
        if frame["type"] == "step":
            return self._answer(self._entered().read_text(frame))
        if frame["type"] == "checkpoint":
            return self._checkpoint(frame)
        if frame["type"] != "error":
            raise ProtocolError(f"no answer to an input: {shown(frame)}")
        error = ApiError(frame["error"])
        if frame["final"]:
            self._end(error)
        self._next()
        return self._refuse(error)

    def _end(self, error: ApiError) -> NoReturn:
        """Raise why the connection ends.

        A failure inside the server may be its replica's alone: the input is tried once more, perhaps elsewhere.
        """
        if error.status != INTERNAL:
            raise error
        failed = (self._entries[self._answered] if self._answered < self._sent else None, self.progress, str(error))
        if failed == self._failed:
            self._failed = ()
            raise self.interrupted(error) from error
        self._failed = failed
        raise _ending(error)

    def refuse_largest(self) -> list[News]:
        """Refuse the largest input that is not answered: the server took its frame for too large."""
        sent = islice(self._entries, self._answered, self._sent)
        suspects = [entry for entry in sent if entry.inputs is not None and entry.refused is None]
        if not suspects:
            raise ProtocolError("the server refused a frame as too large, and none was sent")
        largest = max(suspects, key=lambda entry: len(self._frame(entry)))
        message = f"a frame of {len(self._frame(largest))} bytes is more than the service takes; send fewer steps"
        largest.refused = ApiError({"code": ITEM_TOO_LARGE, "message": message})
        return self._refused_next()

    def opening_too_large(self) -> ApiError:
        """Return the error of a service that took the opening for too large."""
        size, token = len(self.opening()), len(self.state or "")
        message = f"the opening has {size} bytes, {token} of them the state; that is more than the service takes"
        return ApiError({"code": ITEM_TOO_LARGE, "message": message, "field": "state"})

    def _next(self) -> Entry:
        if self._answered >= self._sent:
            raise ProtocolError("an answer came to nothing that was sent")
        return self._entries[self._answered]

    def _answer(self, output: StepOutput) -> list[News]:
        entry = self._next()
        if entry.inputs is None or (entry.step is not None and entry.step != output.step):
            raise ProtocolError(f"an answer at step {output.step}, where {entry.step} was due")
        entry.step = self._step = output.step
        self._answered += 1
        if self._answered <= self._delivered:
            if self._answered > self._replayed:
                self._replayed = self._answered
                self.reached += 1
            return []
        self._delivered = self._answered
        self._advance()
        return [output, *self._refused_next()]

    def _advance(self) -> None:
        self.progress += 1
        self.reached += 1
        self._replayed = 0

    def _checkpoint(self, frame: dict[str, Any]) -> list[News]:
        if frame["step"] != self._step:
            raise ProtocolError(f"a checkpoint at step {frame['step']}, where the answers so far lead to {self._step}")
        self._opening["state"], self.step_count = frame["state"], frame["step"]
        self._opening.pop("version", None)  # from here on the token says it
        self._advance()
        if frame["asked"]:
            if self._next().inputs is not None:
                raise ProtocolError("a checkpoint that was not asked for")
            self._entries[self._answered].answer = frame["state"]
            self._answered += 1
        for _ in range(self._answered):
            self._entries.popleft()
        self._sent -= self._answered
        self._delivered = max(0, self._delivered - self._answered)
        self._answered = 0
        return self._refused_next()

    def _refuse(self, error: ApiError) -> list[News]:
        """Take the next entry out of the session: it was not part of it."""
        entry = self._entries[self._answered]
        if self._answered < self._delivered:
            raise ProtocolError(f"what was answered before is refused in the replay: {error}")
        del self._entries[self._answered]
        self._sent = max(self._answered, self._sent - 1)
        self._advance()
        if entry.inputs is None:
            entry.answer = error
            return self._refused_next()
        return [error, *self._refused_next()]

    def _refused_next(self) -> list[News]:
        """Return the errors of the next entries, as far as they were refused for their size."""
        if self._answered < len(self._entries) and (error := self._entries[self._answered].refused) is not None:
            return self._refuse(error)
        return []


def _ending(error: ApiError) -> ApiError | Unreachable:
    """Return the error that ends a connection; a failure inside the server may be its replica's alone."""
    return Unreachable(str(error)) if error.status == INTERNAL else error
