"""Sessions by themselves: points from tokens and tokens from points, with engines that never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from here import Clock, load_here

from service.engine.engine import Engine
from service.engine.registry import Registry, Wanted
from service.errors import (
    InvalidRequest,
    ItemTooLarge,
    PrecisionTooLow,
    RequestError,
    StateError,
    StateExpired,
    StateGone,
    StateInvalid,
    StateModelGone,
    StateWrongModel,
    StoreUnavailable,
    UnknownModel,
)
from service.metrics import Metrics
from service.settings import Settings
from service.state.keys import KeyRing, new_key
from service.state.sessions import Carried, Point, Sessions
from service.state.stores.choice import SharedStore
from service.state.stores.memory import MemoryStore
from service.state.token import Sealer

pytestmark = pytest.mark.anyio

TTL_S = 3600
STATE_BYTES = 2 * 4 * 4  # h and c, four float32 each


class BrokenStore:
    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        raise StoreUnavailable("it is down")

    load = save

    async def close(self) -> None: ...


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    root = tmp_path_factory.mktemp("models")
    tiny.stepper(root)
    tiny.number_stepper(root)
    return {engine.manifest.name: engine for engine in load_here(root)}


def sessions_of(engines: Sequence[Engine], clock: Clock, store: Any = "memory", **settings: Any) -> Sessions:
    read = Settings(state_ttl_s=TTL_S, store="memory", **settings)
    if store == "memory":
        store = MemoryStore(max_bytes=10_000, ttl_s=TTL_S, metrics=Metrics(), clock=clock)
    sealer = Sealer(KeyRing([KEY]), ttl_s=TTL_S, skew_s=0, clock=clock)
    return Sessions(read, Registry(Wanted(engines, {})), sealer, None if store is None else SharedStore(store))


KEY = new_key()


def point_of(engine: Engine, fill: float = 0.25) -> Point:
    values = np.full(engine.layout.size // 4, fill, "<f4")
    return Point(engine, values.tobytes(), b"0123456789abcdef", step=3)


async def carried(sessions: Sessions, point: Point, **options: Any) -> Carried:
    (one,) = await sessions.hand_out([point], tenant="t", **options)
    assert isinstance(one, Carried), one
    return one


async def resumed(sessions: Sessions, token: bytes, *, model: str = "stepper", tenant: str = "t") -> Any:
    (point,) = await sessions.resume([token], model=model, tenant=tenant)
    return point


@pytest.mark.parametrize("hold", ["client", "server"])
async def test_a_token_leads_back_to_its_point(engines: dict[str, Engine], hold: str) -> None:
    sessions, point = sessions_of([*engines.values()], Clock()), point_of(engines["stepper"])
    token = (await carried(sessions, point, hold=hold)).token
    again = await resumed(sessions, token)
    due = Point(point.engine, point.state, point.session_id, point.step, held=hold == "server")
    assert again == due


async def test_float16_states_come_back_rounded(engines: dict[str, Engine]) -> None:
    sessions, point = sessions_of([*engines.values()], Clock()), point_of(engines["stepper"], fill=0.1)
    exact, cut = [(await carried(sessions, point, precision=p)).token for p in ("float32", "float16")]
    assert len(exact) - len(cut) >= STATE_BYTES // 2 - 2
    values = np.frombuffer((await resumed(sessions, cut)).state, "<f4")
    np.testing.assert_array_equal(values, np.float32(np.float16(0.1)))
    (refusal,) = await sessions.hand_out([point_of(engines["stepper"], 7e4)], tenant="t", precision="float16")
    assert isinstance(refusal, PrecisionTooLow)


async def test_each_token_has_its_own_answer_in_its_place(engines: dict[str, Engine]) -> None:
    sessions, point = sessions_of([*engines.values()], Clock()), point_of(engines["stepper"])
    held, sealed = [(await carried(sessions, point, hold=hold)).token for hold in ("server", "client")]
    found = await sessions.resume([b"junk", held, sealed, held[:-1] + b"x"], model="stepper", tenant="t")
    assert [type(one) for one in found] == [StateInvalid, Point, Point, StateInvalid]


async def refused(sessions: Sessions, token: bytes, error: type[StateError], reason: str, **options: str) -> None:
    one = await resumed(sessions, token, **options)
    assert (type(one), one.reason) == (error, reason)


async def test_what_a_token_may_not_be_used_for_is_refused(engines: dict[str, Engine]) -> None:
    clock = Clock()
    sessions = sessions_of([*engines.values()], clock)
    token = (await carried(sessions, point_of(engines["stepper"]))).token
    await refused(sessions, token, StateWrongModel, "wrong_model", model="numbers")
    await refused(sessions, token, StateInvalid, "not_authentic", tenant="other")
    others = sessions_of([engines["numbers"]], clock)
    await refused(others, token, StateModelGone, "model_gone")
    clock.now += TTL_S
    await refused(sessions, token, StateExpired, "expired")


async def test_a_held_state_that_is_lost_is_never_an_empty_session(engines: dict[str, Engine]) -> None:
    clock = Clock()
    sessions = sessions_of([*engines.values()], clock)
    token = (await carried(sessions, point_of(engines["stepper"]), hold="server")).token
    await refused(sessions_of([*engines.values()], clock), token, StateGone, "not_in_store")
    broken = sessions_of([*engines.values()], clock, BrokenStore())
    (one,) = await broken.hand_out([point_of(engines["stepper"])], tenant="t", hold="server")
    for refused_one in (await resumed(broken, token), one):
        assert isinstance(refused_one, StoreUnavailable)
        assert refused_one.field == "state"


async def test_who_keeps_a_state_is_as_asked_or_as_it_came(engines: dict[str, Engine]) -> None:
    point = point_of(engines["stepper"])
    sessions = sessions_of([*engines.values()], Clock())
    assert sessions.holds(point, None, "float32") is False
    assert sessions.holds(point, "server", "float32") is True
    came_held = await resumed(sessions, (await carried(sessions, point, hold="server")).token)
    assert sessions.holds(came_held, None, "float32") is True
    small = sessions_of([*engines.values()], Clock(), max_state_bytes=STATE_BYTES - 4)
    assert small.holds(point, None, "float32") is True
    assert small.holds(point, None, "float16") is False
    with pytest.raises(ItemTooLarge):
        small.holds(point, "client", "float32")
    with pytest.raises(InvalidRequest, match="BATON_STORE"):
        sessions_of([*engines.values()], Clock(), workers=2).holds(point, "server", "float32")


async def test_a_retiring_version_begins_no_session_and_its_tokens_end_with_it(tmp_path: Path) -> None:
    clock = Clock()
    tiny.stepper(tmp_path)
    (engine,) = load_here(tmp_path)
    sessions = sessions_of([engine], clock)
    start = sessions.begin(engine)
    assert (start.state, start.step) == (None, 0)
    engine.ends_ms = int(1000 * clock.now) + 5000
    with pytest.raises(UnknownModel, match="being retired"):
        sessions.begin(engine)
    assert (await carried(sessions, point_of(engine))).expires_ms == engine.ends_ms
    clock.now += 5
    (one,) = await sessions.hand_out([point_of(engine)], tenant="t")
    assert isinstance(one, RequestError)
    assert isinstance(one, StateExpired)
