"""When a client or a stream may be used: in the event loop of its first use, until it is closed.

It knows asyncio alone. Invariant: use in another loop, after the end of the loop or after a fork is refused at once,
because nothing would ever answer there.
"""

from __future__ import annotations

import asyncio


class Lifetime:
    """The lifetime of a client or a stream, as `name` says; `renewal` says how to get another."""

    def __init__(self, name: str, renewal: str) -> None:
        self._name, self._renewal = name, renewal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False

    def check(self) -> None:
        """Raises: RuntimeError where it has ended."""
        if self._ended:
            raise RuntimeError(f"the {self._name} is closed; {self._renewal}")

    def use(self) -> None:
        """Use it in the running loop. Raises: RuntimeError where it has ended or belongs to another loop."""
        self.check()
        self._own()

    def end(self) -> bool:
        """End it, and return whether it had not ended before. Raises: RuntimeError in another loop."""
        if self._ended:
            return False
        self._own()
        self._ended = True
        return True

    def _own(self) -> None:
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        if self._loop is not running:
            raise RuntimeError(f"the {self._name} belongs to another event loop or process; {self._renewal} there")
