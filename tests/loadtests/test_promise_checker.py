"""The checker of promises: sessions outlast what becomes of replicas; a service that lies or forgets is found out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from conftest import ROOT, Server, ServerFactory

from loadtests.promises.clients import Client
from loadtests.promises.history import OPERATIONS, History
from loadtests.promises.oracle import Oracle

NEMESES = {"kill", "pause", "roll", "reload", "clock"}
SECONDS = 45


def test_three_replicas_under_a_nemesis_lose_no_session_and_tell_no_lie(tmp_path: Path) -> None:
    """They are killed, paused, rolled, reloaded and put out of time; their disk is filled, where one can be mounted."""
    told = tmp_path / "history.json"
    command = [
        sys.executable,
        "-m",
        "loadtests.promises",
        "--seconds",
        str(SECONDS),
        "--clients",
        "2",
        "--output",
        told,
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    history = json.loads(told.read_text())
    assert (history["differing"], history["lost"], history["breaches"]) == (0, 0, [])
    assert set(history["answered"]) == set(OPERATIONS)
    assert set(history["nemeses"]) - {"disk"} == NEMESES
    assert ("disk" in history["nemeses"]) is ("no disk was filled" not in ended.stdout)


def work(server: Server, oracle: Oracle, verified_at: Server | None = None) -> History:
    """Have a client work with a service for a while, and go on from its places at another."""
    history = History()
    client = Client([server.url], oracle, history, seed=3)

    async def run() -> None:
        await client.run(lambda: len(history.answered) == len(OPERATIONS) - 1)
        await client.verify([(verified_at or server).url])

    asyncio.run(run())
    return history


@pytest.fixture(scope="module")
def oracle(tiny_models: Path) -> Oracle:
    return Oracle(tiny_models / "stepper" / "1")


def test_a_service_that_keeps_its_promises_breaks_none(server: Server, oracle: Oracle) -> None:
    history = work(server, oracle)
    assert (history.differing, history.lost) == (0, 0)
    assert history.steps > 10
    assert history.failures(least_answered=1, nemeses=set()) == []


def test_answers_that_are_not_the_oracle_s_are_told(server: Server, tmp_path: Path) -> None:
    other = Oracle(tiny.stepper(tmp_path, seed=4))
    history = work(server, other)
    assert history.differing > 10
    assert "should be" in history.breaches[0].told
    (failure, *_) = history.failures(least_answered=0, nemeses=set())
    assert failure == f"{history.differing} answers differ from the oracle's"


def test_a_service_that_cannot_read_its_tokens_has_lost_sessions(
    server: Server, oracle: Oracle, tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    forgetful = start_server(tiny_models, tmp_path / "another key")
    history = work(server, oracle, verified_at=forgetful)
    assert (history.lost > 3, history.differing) == (True, 0)
    assert history.breaches[0].promise == "no session is lost"
    assert "state_invalid" in history.breaches[0].told


def test_a_run_in_which_little_happened_fails() -> None:
    history = History()
    history.answered.update(dict.fromkeys(OPERATIONS, 5) | {"fork": 4})
    history.nemeses["kill"] = 1
    assert history.failures(least_answered=5, nemeses={"kill", "pause"}) == [
        "fewer than 5 operations of the kind fork were answered",
        "no pause has struck",
    ]
