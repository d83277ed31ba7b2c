"""The stream without asyncio: the calls of AsyncStream, which wait.

It has no work of its own: an async stream does it, in the thread of its client's portal. The signatures stand twice,
here and in AsyncStream, because editors and documentation read them from the source. Invariant: what inputs are made
from is read in the caller's thread, where it may use the same client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from baton_client.async_stream import MAPPED, MAX_OUTSTANDING, AsyncStream
from baton_client.inputs import Array, Inputs, listed, steps
from baton_client.portal import Portal
from baton_client.results import StepOutput


class Stream:
    """One session on one connection at a time. Its methods are those of AsyncStream; use it as a context manager.

    It may be used in any thread of the process that made it. Raises: what AsyncStream raises, but for event loops.
    """

    def __init__(self, stream: AsyncStream, portal: Portal) -> None:
        self._stream, self._portal = stream, portal

    def __enter__(self) -> Self:
        self._portal.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. What no checkpoint covers stays in `unacknowledged`.

        A forked process has no part in the connection, and leaves it as it is.
        """
        self._portal.end(self._stream)

    @property
    def state(self) -> str | None:
        """The token of the last checkpoint, else that of the beginning; None where the stream began a session."""
        return self._stream.state

    @property
    def step_count(self) -> int:
        """The steps that the session had taken at the last checkpoint."""
        return self._stream.step_count

    @property
    def unacknowledged(self) -> list[Array | str]:
        """The inputs that were sent since the last checkpoint."""
        return self._stream.unacknowledged

    @property
    def outstanding(self) -> int:
        """How many inputs were sent whose outputs were not received."""
        return self._stream.outstanding

    def send(self, inputs: Inputs) -> None:
        """Send the next steps; `recv` has what they give. It waits while 32 outputs were not received.

        Shapes: inputs are k rows of features, k numbers for a one-number model, or a text.

        Raises: ValueError for inputs that no frame can hold; TimeoutError when nothing was received meanwhile.
        """
        self._portal.run(self._stream.send(steps(inputs)))

    def recv(self) -> StepOutput:
        """Return the outputs of the next input that was sent.

        Raises: ApiError when this input was refused; it was not part of the session, and the stream goes on.
        """
        return self._portal.run(self._stream.recv())

    def step(self, inputs: Inputs) -> StepOutput:
        """Send the next steps and return their outputs: one round trip."""
        return self._portal.run(self._stream.step(steps(inputs)))

    def map(self, inputs: Iterable[Inputs]) -> Iterator[StepOutput]:
        """Yield the outputs of each input, in order, with up to 32 inputs under way: for inputs that are at hand.

        After the ApiError of a refused input, those under way can be received with `recv`.
        """
        # In this thread: the source of the inputs may be slow, or use this client.
        for steps_given in listed(inputs, "inputs", MAPPED):
            self.send(steps_given)
            if self.outstanding == MAX_OUTSTANDING:
                yield self.recv()
        while self.outstanding:
            yield self.recv()

    def checkpoint(self) -> str:
        """Return a token of the point after all inputs so far; their outputs can still be received."""
        return self._portal.run(self._stream.checkpoint())
