"""Keys: made, listed and rotated without a session noticing."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import tiny
from conftest import baton
from here import Clock, serve_here

from service.settings import Settings
from service.state.keys import key_id

TTL_S = 1000
OLD, NEW = (base64.urlsafe_b64encode(bytes([number] * 32)).decode().rstrip("=") for number in (1, 2))


def shown_id(key: str) -> str:
    return key_id(key, "a key").hex()


def listed(**environment: str) -> list[list[str]]:
    """Return the rows of `baton keys list`; its output never shows a key."""
    ended = baton("keys", "list", **environment)
    assert ended.returncode == 0, ended.stderr
    assert OLD not in ended.stdout
    assert NEW not in ended.stdout
    return [line.split() for line in ended.stdout.splitlines()[1:]]


def test_a_new_key_is_printed_alone_and_can_be_used() -> None:
    one, other = baton("keys", "new"), baton("keys", "new")
    key = one.stdout.removesuffix("\n")
    assert len(base64.urlsafe_b64decode(key + "=")) == 32
    assert key != other.stdout.removesuffix("\n")
    assert "\n" not in key
    assert shown_id(key) in one.stderr
    assert key not in one.stderr
    assert listed(BATON_TOKEN_KEYS=f'["{key}"]')[0][0] == shown_id(key)


def test_the_ring_is_listed_by_id_use_and_source() -> None:
    assert listed(BATON_TOKEN_KEYS=f'["{NEW}", "{OLD}"]') == [
        [shown_id(NEW), "seals,", "opens", "BATON_TOKEN_KEYS[0]"],
        [shown_id(OLD), "opens", "BATON_TOKEN_KEYS[1]"],
    ]


def test_the_kept_key_is_listed_and_none_is_made(tmp_path: Path) -> None:
    absent = baton("keys", "list", BATON_STATE_DIR=str(tmp_path / "state"))
    assert (absent.returncode, absent.stdout) == (0, "")
    assert f"no key yet: the first start will make one in {tmp_path}/state" in absent.stderr
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "token.key"
    file.write_text(OLD)
    file.chmod(0o600)
    assert listed(BATON_STATE_DIR=str(tmp_path)) == [[shown_id(OLD), "seals,", "opens", str(file)]]
    assert listed(BATON_STATE_DIR=str(tmp_path), BATON_TOKEN_KEYS=f'["{NEW}"]')[0][0] == shown_id(NEW)


def test_a_ring_that_no_service_would_start_with_is_not_listed(tmp_path: Path) -> None:
    for environment, says in (
        ({"BATON_TOKEN_KEYS": '["short"]'}, "baton: BATON_TOKEN_KEYS[0] is not 32 bytes of base64url"),
        ({"BATON_STATE_DIR": str(tmp_path)}, f"baton: {tmp_path}/token.key can be read by others (mode 0644)"),
    ):
        (tmp_path / "token.key").write_text(OLD)
        (tmp_path / "token.key").chmod(0o644)
        ended = baton("keys", "list", **environment)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(says)
        assert len(ended.stderr.splitlines()) == 1


class Replicas:
    """Two replicas over the same models, each with a ring of its own, and sessions that go to both in turn."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, Clock()
        self.sessions: list[tuple[str | None, int]] = []  # each one's token, and how many steps it has taken
        self._stacks = [AsyncExitStack(), AsyncExitStack()]
        self.clients: dict[int, httpx.AsyncClient] = {}

    async def restart(self, number: int, *ring: str) -> None:
        await self._stacks[number].aclose()
        settings = Settings(
            models_dir=self.root,
            state_dir=self.root / ".none",
            store="memory",  # a file would be open twice in this process
            state_ttl_s=TTL_S,
            token_keys=ring,  # type: ignore[arg-type]
        )
        self.clients[number], _ = await self._stacks[number].enter_async_context(serve_here(settings, self.clock))

    async def stop(self) -> None:
        for stack in self._stacks:
            await stack.aclose()

    async def step(self, number: int, state: str | None) -> httpx.Response:
        item = {"values": [1], **({"state": state} if state else {})}
        return await self.clients[number].post("/v1/step", json={"model": "numbers", "items": [item]})

    async def go_on(self) -> None:
        """Begin a session at each replica, and have every session take a step at each."""
        self.sessions += [(None, 0), (None, 0)]
        for first in (0, 1):
            for place, (state, taken) in enumerate(self.sessions):
                answer = await self.step((place + first) % 2, state)
                assert answer.status_code == 200, answer.text
                (result,) = answer.json()["results"]
                assert result["outputs"]["total"] == [2.0 ** (taken + 1) - 1]
                self.sessions[place] = (result["state"], taken + 1)


@pytest.fixture
async def replicas(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Replicas]:
    tiny.number_stepper(tmp_path)
    pair = Replicas(tmp_path)
    for number in (0, 1):
        await pair.restart(number, OLD)
    yield pair
    await pair.stop()


@pytest.mark.anyio
async def test_a_rotation_in_three_steps_loses_no_session_at_any_point_of_its_restarts(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "baton.access")
    await replicas.go_on()
    (idle, _), *_ = replicas.sessions
    for ring in ((OLD, NEW), (NEW, OLD), (NEW,)):
        for number in (0, 1):
            await replicas.restart(number, *ring)
            await replicas.go_on()
        if ring == (NEW, OLD):  # the last restart over: from here on nothing is sealed with the old key
            for _ in range(2):
                replicas.clock.now += TTL_S / 2
                await replicas.go_on()
            expired = await replicas.step(0, idle)
            assert (expired.status_code, expired.json()["error"]["code"]) == (410, "state_expired")
    refused = await replicas.step(0, idle)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "state_invalid")
    assert f"state_invalid:unknown_key:{shown_id(OLD)}*1" in caplog.messages[-1]


@pytest.mark.anyio
async def test_a_new_key_that_seals_before_every_replica_has_it_loses_sessions(replicas: Replicas) -> None:
    """Why the rotation has its first step."""
    await replicas.restart(1, NEW, OLD)
    state = (await replicas.step(1, None)).json()["results"][0]["state"]
    assert (await replicas.step(0, state)).json()["error"]["code"] == "state_invalid"
