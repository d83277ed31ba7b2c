"""An answer as bytes: the same JSON however it is dumped, and a long one holds up nobody."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.web.answers import FEW_RESULTS, dump

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("count", [0, 1, FEW_RESULTS, FEW_RESULTS + 1, 100])
async def test_many_results_are_dumped_as_few_are(count: int) -> None:
    results = [{"index": index, "bytes": b"\xff\x00", "text": '\u2028"é'} for index in range(count)]
    content: dict[str, Any] = {"model": "m", "results": results, "timing_ms": {"total": 0.1}}
    shown = [{**result, "bytes": "_wA="} for result in results]
    assert json.loads(await dump(content)) == {**content, "results": shown}
    assert [*json.loads(await dump(content))] == ["model", "results", "timing_ms"]


async def test_others_have_their_turn_while_many_results_are_dumped() -> None:
    """Each of these takes longer than a turn."""
    dumping = asyncio.create_task(dump({"results": [{"values": [0.123456789] * 400_000}] * 20}))
    turns = 0
    while not dumping.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
