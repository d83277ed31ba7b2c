"""Turns: long work of one request on the event loop, in pieces between which other requests have theirs.

It knows time and the event loop, not what is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
TURN_S = 0.01  # after which others have their turn


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items, and let others run before an item where those before it took a turn."""
    began = time.monotonic()
    for item in items:
        if time.monotonic() - began > TURN_S:
            await asyncio.sleep(0)
            began = time.monotonic()
        yield item
