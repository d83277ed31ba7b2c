"""Redis is emptied, slow, another one or replaced by its replica while a service runs: what is lost is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from conftest import RedisServer, Server, ServerFactory
from held import KEPT, go_on, hold, outcome, sequence_step, sequence_total
from middleman import Middleman, middleman
from programs import find_program

PATIENCE_S = 0.5  # for Redis, in place of 2 s
LESS_PATIENT = f"from service.state.stores import redis; redis.REDIS_TIMEOUT_S = {PATIENCE_S}"
COMMAND = (sys.executable, "-c", f"{LESS_PATIENT}; from service.cli.command import main; main()")


@pytest.fixture
def other_redis() -> Iterator[RedisServer]:
    running = RedisServer(find_program("redis-server"))
    yield running
    running.stop()


@pytest.fixture
def way(redis_server: RedisServer) -> Iterator[Middleman]:
    """The way from the service to Redis."""
    with middleman(address(redis_server)) as proxy:
        yield proxy


@pytest.fixture
def server(way: Middleman, tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> Iterator[Server]:
    running = start_server(tiny_models, tmp_path, COMMAND, BATON_STORE=f"redis://{way.url.removeprefix('http://')}/0")
    yield running
    running.stop()
    assert not any("Traceback" in line for line in running.lines)


def address(server: RedisServer) -> tuple[str, int]:
    host, port = server.url.removeprefix("redis://").removesuffix("/0").split(":")
    return host, int(port)


def assert_all_is_well(server: Server) -> None:
    state = hold(server.client, 7)
    assert outcome(go_on(server.client, state)) == KEPT
    assert [sequence_total(server.client, "well", start=True), sequence_total(server.client, "well")] == [1, 3]


def test_what_a_redis_lost_that_was_emptied_is_named(server: Server, redis_server: RedisServer) -> None:
    held, token = hold(server.client), go_on(server.client, None).json()["results"][0]["state"]
    sequence_total(server.client, "walk", start=True)
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    assert outcome(go_on(server.client, held)) == (410, "state_gone")
    assert sequence_step(server.client, "walk").status_code == 400
    assert outcome(go_on(server.client, token)) == KEPT
    assert_all_is_well(server)


def test_a_redis_that_is_slow_is_waited_for_and_not_for_long(server: Server, way: Middleman) -> None:
    held = hold(server.client)
    assert sequence_total(server.client, "walk", start=True) == 1
    way.delay_s = PATIENCE_S / 10
    assert outcome(go_on(server.client, held)) == KEPT
    assert sequence_total(server.client, "walk") == 3
    way.delay_s = 3 * PATIENCE_S
    assert outcome(go_on(server.client, held)) == (503, "store_unavailable")
    assert sequence_step(server.client, "walk").headers["retry-after"] == "1"
    way.delay_s = 0
    assert outcome(go_on(server.client, held)) == KEPT
    assert sequence_total(server.client, "walk") == 7
    assert_all_is_well(server)


def test_what_another_redis_has_under_the_same_names_is_not_taken(
    server: Server, way: Middleman, redis_server: RedisServer, other_redis: RedisServer
) -> None:
    held = [hold(server.client, number) for number in range(2)]
    for id in ("walk", "run"):
        sequence_total(server.client, id, start=True)
    with redis.Redis.from_url(redis_server.url) as here, redis.Redis.from_url(other_redis.url) as there:
        for kind in ("baton:state:*", "baton:record:*"):
            one, other = here.keys(kind)
            there.mset({one: here.get(other), other: here.get(one)})
    way.target = address(other_redis)
    redis_server.stop()
    assert [outcome(go_on(server.client, state)) for state in held] == [(410, "state_gone")] * 2
    assert [sequence_step(server.client, id).status_code for id in ("walk", "run")] == [400, 400]
    redis_server.start()
    assert_all_is_well(server)


def test_a_redis_that_lost_its_last_writes_takes_a_sequence_back_and_the_answer_says_to_where(
    server: Server, way: Middleman, redis_server: RedisServer, other_redis: RedisServer
) -> None:
    for start in (True, False):
        sequence_total(server.client, "walk", start=start)
    with redis.Redis.from_url(redis_server.url) as here, redis.Redis.from_url(other_redis.url) as there:
        (key,) = here.keys("baton:record:*")
        there.set(key, here.get(key))
    lost, held = sequence_step(server.client, "walk"), hold(server.client)
    assert lost.json()["parameters"]["sequence_step"] == 3
    way.target = address(other_redis)
    redis_server.stop()
    assert sequence_step(server.client, "walk").json()["parameters"]["sequence_step"] == 3
    assert outcome(go_on(server.client, held)) == (410, "state_gone")
    redis_server.start()
    assert_all_is_well(server)


def test_a_replica_takes_the_place_of_its_redis_and_nothing_is_lost(
    server: Server, way: Middleman, redis_server: RedisServer, other_redis: RedisServer
) -> None:
    """Before it is promoted, it can be read and not written."""
    held = hold(server.client)
    sequence_total(server.client, "walk", start=True)
    with redis.Redis.from_url(redis_server.url) as here, redis.Redis.from_url(other_redis.url) as there:
        here.config_set("repl-diskless-sync-delay", 0)
        there.config_set("repl-diskless-load", "on-empty-db")  # else it leaves a file behind
        there.replicaof(*map(str, address(redis_server)))
        assert sequence_total(server.client, "walk") == 3
        here.set("written", "after all that")
        assert here.wait(1, 60_000) == 1
        way.target = address(other_redis)
        redis_server.stop()
        assert outcome(go_on(server.client, held)) == (503, "store_unavailable")
        assert outcome(go_on(server.client, held, hold="client")) == KEPT
        assert sequence_step(server.client, "walk").headers["retry-after"] == "1"
        there.replicaof("NO", "ONE")
    assert outcome(go_on(server.client, held)) == KEPT
    assert sequence_total(server.client, "walk") == 7
    redis_server.start()
    assert_all_is_well(server)
