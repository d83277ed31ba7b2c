"""How many connections the clients of a process hold, by their addresses.

It knows addresses, not connections. Invariant: an address that holds none takes no memory.
"""

from __future__ import annotations

from collections import Counter


class Clients:
    """Counts connections; an address may hold `most`, or any number where that is 0."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count a connection of `address`; return whether it is one too many."""
        self._held[address] += 1
        return 0 < self.most < self._held[address]

    def leave(self, address: str) -> None:
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]
