"""States that the server holds, through real servers: they mean what tokens mean, and their loss is never silent."""

from __future__ import annotations

import base64
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
import tiny
from conftest import RedisServer, Server, ServerFactory, baton
from keyring import Keyring

from service.app import create_app
from service.errors import ManifestError
from service.settings import Settings

CLOSE = 1e-5
ROWS = np.random.default_rng(12).normal(size=(12, 2)).tolist()
STATE_BYTES = 32  # of the tiny stepper: h and c of four floats each
KEYS = '["' + base64.urlsafe_b64encode(bytes(range(32))).decode() + '"]'


@pytest.fixture(scope="module", params=["embedded", "memory", "redis"])
def holder(
    request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service for each kind of store, shared by tests that leave nothing behind."""
    store = request.getfixturevalue("shared_redis").url if request.param == "redis" else request.param
    running = Server(tiny_models, tmp_path_factory.mktemp("held"), BATON_STORE=store)
    yield running
    running.stop()


def post(server: Server, path: str, *items: dict, status: int = 200, **options: Any) -> list[dict]:
    answer = server.post(path, {"model": "stepper", "items": list(items), **options})
    assert answer.status_code == status, answer.text
    return answer.json()["results"]


def step(server: Server, *items: dict, **options: Any) -> list[dict]:
    return post(server, "/v1/step", *items, **options)


def whole(server: Server, rows: list) -> np.ndarray:
    (result,) = step(server, {"inputs": rows}, **{"return": "all"})
    return np.array(result["outputs"]["y"])


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_held_steps_equal_tokens_and_the_uninterrupted_run(holder: Server) -> None:
    held, carried = {}, {}
    made: dict[str, list] = {"held": [], "carried": []}
    for row in ROWS:
        (held,) = step(holder, {**state_of(held), "inputs": [row]}, **({} if held else {"hold": "server"}))
        (carried,) = step(holder, {**state_of(carried), "inputs": [row]})
        assert (held["held"], "held" in carried) == (True, False)
        made["held"].append(held["outputs"]["y"])
        made["carried"].append(carried["outputs"]["y"])
    np.testing.assert_allclose(made["held"], whole(holder, ROWS), atol=CLOSE)
    np.testing.assert_allclose(made["held"], made["carried"], atol=CLOSE)
    assert held["step"] == carried["step"] == 12


def state_of(result: dict) -> dict:
    return {"state": result["state"]} if result else {}


def test_a_reference_is_short_whatever_the_state(holder: Server) -> None:
    for model, row in (("stepper", {"inputs": [[1, 2]]}), ("reader", {"text": "good"})):
        (result,) = step(holder, row, hold="server", model=model)
        assert len(result["state"]) == 4 * -(-(106 + 16) // 3)


def test_retry_rewind_and_fork_of_a_held_state(holder: Server) -> None:
    (parent,) = step(holder, {"inputs": ROWS[:4]}, hold="server")
    once, again = (step(holder, {**state_of(parent), "inputs": ROWS[4:6]})[0] for _ in range(2))
    assert once["outputs"] == again["outputs"]
    step(holder, {**state_of(once), "inputs": ROWS[6:]})
    (rewound,) = step(holder, {**state_of(parent), "inputs": ROWS[4:6]})
    assert rewound["outputs"] == once["outputs"]
    branches = [[*ROWS[:4], [n, -n]] for n in range(64)]
    forks = step(holder, *({**state_of(parent), "inputs": rows[4:]} for rows in branches))
    for rows, fork in zip(branches, forks, strict=True):
        assert fork["held"]
        assert fork["outputs"]["y"] == pytest.approx(whole(holder, rows)[-1], abs=CLOSE)


def test_concurrent_held_sessions_never_mix(holder: Server) -> None:
    def run_session(seed: int) -> None:
        rows = np.random.default_rng(seed).normal(size=(6, 2)).tolist()
        result: dict = {}
        for index, row in enumerate(rows):
            (result,) = step(holder, {**state_of(result), "inputs": [row]}, **({} if index else {"hold": "server"}))
        assert result["outputs"]["y"] == pytest.approx(whole(holder, rows)[-1], abs=CLOSE)

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(run_session, range(24)))


def test_a_held_state_becomes_a_token_and_back_with_a_step_or_without(holder: Server) -> None:
    expected = whole(holder, ROWS)
    (begun,) = step(holder, {"inputs": ROWS[:3]}, hold="server")
    (exported,) = post(holder, "/v1/state", {"id": "a", **state_of(begun)}, hold="client")
    assert (exported["index"], exported["id"], exported["version"], exported["step"]) == (0, "a", "1", 3)
    assert ("held" in exported, len(exported["state"])) == (False, 4 * -(-(106 + STATE_BYTES) // 3))
    (imported,) = post(holder, "/v1/state", state_of(exported), hold="server")
    assert imported["held"]
    for result in (begun, exported, imported):
        (after,) = step(holder, {**state_of(result), "inputs": ROWS[3:]}, **{"return": "all"})
        np.testing.assert_allclose(after["outputs"]["y"], expected[3:], atol=CLOSE)
        assert (after["step"], "held" in after) == (12, "held" in result)
        for hold in ("client", "server"):
            (turned,) = step(holder, {**state_of(result), "inputs": ROWS[3:4]}, hold=hold)
            assert turned.get("held") == (True if hold == "server" else None)


def test_moving_states_answers_items_alone_and_runs_nothing(holder: Server) -> None:
    (good,) = step(holder, {"inputs": [[1, 2]]})
    items = [state_of(good), {"id": "b", "state": good["state"][:-4]}, {"id": "c"}, {"state": "!"}, state_of(good)]
    answer = holder.post("/v1/state", {"model": "stepper", "items": items, "hold": "server"}).json()
    errors = [result.get("error", {}) for result in answer["results"]]
    assert [error.get("code") for error in errors] == [None, "state_invalid", "invalid_request", "state_invalid", None]
    assert [error.get("field") for error in errors[1:4]] == [f"items[{n}].state" for n in (1, 2, 3)]
    assert [result["id"] for result in answer["results"]] == [None, "b", "c", None, None]
    assert (answer["summary"], answer["usage"]["rows"]) == ({"ok": 2, "failed": 3}, 0)
    for wrong, field in (({"hold": "here"}, "hold"), ({}, "hold"), ({"hold": "server", "timeout_ms": 5}, "timeout_ms")):
        answer = holder.post("/v1/state", {"model": "stepper", "items": [state_of(good)], **wrong})
        assert (code(answer), answer.json()["error"]["field"]) == ((422, "invalid_request"), field)


def test_every_changed_character_and_cut_of_a_reference_is_refused(holder: Server) -> None:
    (held,) = step(holder, {"inputs": [[1, 2]]}, hold="server")
    token = held["state"]
    other = ["B" if character == "A" else "A" for character in token]
    spellings = [token[:place] + other[place] + token[place + 1 :] for place in range(len(token))]
    spellings += [token[:length] for length in range(len(token))]
    answer = holder.post(
        "/v1/step", {"model": "stepper", "items": [{"inputs": [[1, 2]], "state": wrong} for wrong in spellings]}
    )
    assert {result["error"]["code"] for result in answer.json()["results"]} == {"state_invalid"}
    wrong_model = holder.post("/v1/step", {"model": "numbers", "items": [{"values": [1], **state_of(held)}]})
    assert code(wrong_model) == (409, "state_wrong_model")


def test_halved_tokens_are_shorter_and_near(holder: Server) -> None:
    expected = whole(holder, ROWS)
    (exact,) = step(holder, {"inputs": ROWS[:3]})
    (halved,) = step(holder, {"inputs": ROWS[:3]}, precision="float16")
    assert len(exact["state"]) - len(halved["state"]) == pytest.approx(4 * STATE_BYTES / 2 / 3, abs=4)
    for row, wanted in zip(ROWS[3:], expected[3:], strict=True):
        (halved,) = step(holder, {**state_of(halved), "inputs": [row]}, precision="float16")
        np.testing.assert_allclose(halved["outputs"]["y"], wanted, atol=5e-3)
        assert not np.allclose(halved["outputs"]["y"], wanted, atol=1e-9, rtol=0)
    (again,) = post(holder, "/v1/state", state_of(halved), hold="client")
    (held,) = step(holder, {"inputs": ROWS[:3]}, hold="server", precision="float16")
    (after,) = step(holder, {**state_of(held), "inputs": ROWS[3:]}, **{"return": "all"})
    np.testing.assert_allclose(after["outputs"]["y"], expected[3:], atol=CLOSE)
    assert len(again["state"]) == len(exact["state"])


def test_a_state_beyond_float16_is_refused_alone_and_f32_goes_on(holder: Server) -> None:
    items = [{"values": [1]}, {"values": [70_000]}, {"values": [65_504]}]
    low, high, edge = step(holder, *items, model="numbers", precision="float16")
    assert (low["outputs"]["total"], edge["outputs"]["total"]) == ([1.0], [65_504.0])
    assert (high["error"]["code"], high["error"]["limit"]) == ("precision_too_low", 65_504)
    assert '"precision": "float32"' in high["error"]["message"]
    (exact,) = step(holder, items[1], model="numbers")
    assert exact["outputs"]["total"] == [70_000.0]
    refused = holder.post(
        "/v1/state", {"model": "numbers", "items": [state_of(exact)], "hold": "client", "precision": "float16"}
    )
    assert code(refused) == (422, "precision_too_low")


def test_another_tenant_cannot_use_a_reference(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    keys = Keyring("acme", "bolt")
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=keys.setting)
    acme, bolt = keys.header("acme"), keys.header("bolt")
    body: dict = {"model": "stepper", "items": [{"inputs": [[1, 2]]}], "hold": "server"}
    body["items"][0]["state"] = server.post("/v1/step", body, headers=acme).json()["results"][0]["state"]
    assert server.post("/v1/step", body, headers=acme).status_code == 200
    assert code(server.post("/v1/step", body, headers=bolt)) == (422, "state_invalid")
    del body["items"][0]["inputs"]
    assert code(server.post("/v1/state", body, headers=bolt)) == (422, "state_invalid")
    server.stop()


def test_what_is_evicted_is_gone_and_seen_and_never_a_new_session(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_STORE="memory", BATON_STORE_BYTES="2000")
    (first,) = step(server, {"inputs": [[1, 2]]}, hold="server")
    held_bytes = server.metric("baton_held_bytes")
    for number in range(6):
        step(server, {"inputs": [[number, 3]]}, hold="server")
    body = {"model": "stepper", "items": [{**state_of(first), "inputs": [[3, 4]]}, {"inputs": [[1, 2]]}]}
    gone, fresh = server.post("/v1/step", body).json()["results"]
    assert (gone["error"]["code"], gone["error"]["field"]) == ("state_gone", "items[0].state")
    assert fresh["step"] == 1
    body["items"].pop()
    assert code(server.post("/v1/step", body)) == (410, "state_gone")
    kept = int(2000 // held_bytes)
    assert server.metric("baton_held_states") == kept
    assert server.metric("baton_evictions_total", "reason", "space") == 7 - kept
    assert server.metric("baton_tokens_rejected_total", "reason", "not_in_store") == 2
    (token,) = step(server, {"inputs": [[1, 2]]})
    (held,) = step(server, {"inputs": [[5, 6]]}, hold="server")
    server.kill()
    server.start()
    step(server, {**state_of(token), "inputs": [[3, 4]]})
    body["items"] = [{**state_of(held), "inputs": [[3, 4]]}]
    assert code(server.post("/v1/step", body)) == (410, "state_gone")
    server.stop()


@pytest.mark.anyio
async def test_a_reference_expires_as_a_token_does_and_moving_it_renews_it(tmp_path: Path) -> None:
    tiny.stepper(tmp_path / "models")
    now = 1_700_000_000.0
    settings = Settings(models_dir=tmp_path / "models", state_dir=tmp_path / "state", state_ttl_s=60)
    app = create_app(settings, clock=lambda: now)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://b") as client, app.router.lifespan_context(app):

        async def call(path: str, item: dict, **options: str) -> httpx.Response:
            return await client.post(path, json={"model": "stepper", "items": [item], **options})

        begun = (await call("/v1/step", {"inputs": [[1, 2]]}, hold="server")).json()["results"][0]
        assert begun["expires_at"] == "2023-11-14T22:14:20Z"
        now += 59
        renewed = (await call("/v1/state", state_of(begun), hold="server")).json()["results"][0]
        assert renewed["expires_at"] == "2023-11-14T22:15:19Z"
        now += 1
        assert code(await call("/v1/step", {**state_of(begun), "inputs": [[1, 2]]})) == (410, "state_expired")
        now += 58
        assert (await call("/v1/step", {**state_of(renewed), "inputs": [[1, 2]]})).json()["results"][0]["step"] == 2
        now += 61
        await call("/v1/step", {"inputs": [[3, 4]]}, hold="server")
        assert 'baton_evictions_total{reason="age"} 2.0' in (await client.get("/metrics")).text


def test_a_state_too_large_for_a_token_is_held_unless_the_client_insists(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_MAX_STATE_BYTES=str(STATE_BYTES - 1))
    (first,) = step(server, {"inputs": ROWS[:6]})
    (second,) = step(server, {**state_of(first), "inputs": ROWS[6:]}, **{"return": "all"})
    assert first["held"]
    assert second["held"]
    np.testing.assert_allclose(second["outputs"]["y"], whole(server, ROWS)[6:], atol=CLOSE)
    before = server.metric("baton_batch_rows_sum", "model", "stepper")
    for path, item in (("/v1/step", {"inputs": ROWS}), ("/v1/state", state_of(first))):
        answer = server.post(path, {"model": "stepper", "items": [item], "hold": "client"})
        assert code(answer) == (413, "item_too_large")
        assert answer.json()["error"]["limit"] == STATE_BYTES - 1
    assert server.metric("baton_batch_rows_sum", "model", "stepper") == before
    (halved,) = step(server, {"inputs": ROWS}, hold="client", precision="float16")
    assert "held" not in halved
    server.stop()


@pytest.mark.parametrize("settings", [{"store": "memory", "workers": 2}, {"store": "memory", "store_bytes": 431}])
def test_a_model_whose_states_neither_tokens_nor_the_store_can_take_ends_start_up(
    tiny_models: Path, tmp_path: Path, settings: dict
) -> None:
    needing = Settings(models_dir=tiny_models, state_dir=tmp_path, max_state_bytes=STATE_BYTES - 1, **settings)
    with pytest.raises(ManifestError, match=r"states: a session has 32 bytes.*BATON_MAX_STATE_BYTES and BATON_STORE"):
        create_app(needing)


def test_a_replica_takes_the_next_step_of_a_state_held_in_redis(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    settings = {"BATON_TOKEN_KEYS": KEYS, "BATON_STORE": redis_server.url}
    one, other = (start_server(tiny_models, tmp_path / name, **settings) for name in "ab")
    result: dict = {}
    made = []
    for index, row in enumerate(ROWS):
        hold = {} if index else {"hold": "server"}
        (result,) = step((one, other)[index % 2], {**state_of(result), "inputs": [row]}, **hold)
        made.append(result["outputs"]["y"])
        if index == 6:
            one.kill()
            one.start()
    np.testing.assert_allclose(made, whole(one, ROWS), atol=CLOSE)
    one.stop()
    other.stop()


def test_workers_share_redis_and_have_no_memory_in_common(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_WORKERS="2", BATON_STORE=redis_server.url)
    expected = whole(server, ROWS)
    (begun,) = step(server, {"inputs": ROWS[:4]}, hold="server")
    for _ in range(8):  # each over a connection of its own, which the kernel gives to either worker
        with httpx.Client(base_url=server.url) as client:
            body = {"model": "stepper", "items": [{**state_of(begun), "inputs": ROWS[4:]}]}
            (result,) = client.post("/v1/step", json=body).json()["results"]
        assert result["outputs"]["y"] == pytest.approx(expected[-1], abs=CLOSE)
    server.stop()
    alone = start_server(tiny_models, tmp_path, BATON_WORKERS="2", BATON_STORE="memory")
    (token,) = step(alone, {"inputs": ROWS[:4]})
    for path, item in (("/v1/step", {"inputs": ROWS}), ("/v1/state", state_of(token))):
        answer = alone.post(path, {"model": "stepper", "items": [item], "hold": "server"})
        assert code(answer) == (422, "invalid_request")
        assert "BATON_STORE" in answer.json()["error"]["message"]
    answer = alone.post("/v1/step", {"model": "stepper", "items": [{**state_of(begun), "inputs": ROWS}]})
    assert code(answer) == (410, "state_gone")
    alone.stop()


def test_services_share_a_file_and_killing_every_process_loses_no_session(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """Two services on one state directory, one of them with two workers; all are killed between two steps."""
    servers = [start_server(tiny_models, tmp_path, BATON_WORKERS=workers) for workers in ("1", "2")]
    expected = whole(servers[0], ROWS)
    starts = step(servers[0], *({"inputs": ROWS[:number]} for number in range(1, 5)), hold="server")
    sessions = [[start] for start in starts]
    for index in range(4, 12):
        server = servers[index % 2]
        with httpx.Client(base_url=server.url) as client:  # a connection of its own, which either worker may take
            items = [{**state_of(points[-1]), "inputs": [ROWS[points[-1]["step"]]]} for points in sessions]
            answer = client.post("/v1/step", json={"model": "stepper", "items": items})
        for points, result in zip(sessions, answer.json()["results"], strict=True):
            points.append(result)
        if index == 7:
            for server in servers:
                kill_all(server)
            for server in servers:
                server.start()
    for points in sessions:
        for point in points:
            assert point["outputs"]["y"] == pytest.approx(expected[point["step"] - 1], abs=CLOSE)
    again = step(servers[1], *({**state_of(points[0]), "inputs": ROWS[1:2]} for points in sessions))
    assert [result["step"] for result in again] == [2, 3, 4, 5], "the first point of a session is still there"
    for server in servers:
        server.stop()


def kill_all(server: Server) -> None:
    """Kill the supervisor and its workers at once."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    server.process.kill()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    server.kill()


def test_what_is_held_is_counted_once_whichever_worker_held_it(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_WORKERS="2")
    for number in range(12):
        with httpx.Client(base_url=server.url) as client:
            body = {"model": "stepper", "items": [{"inputs": [[number, 1]]}], "hold": "server"}
            assert client.post("/v1/step", json=body).status_code == 200
        assert server.metric("baton_held_states") == number + 1
    server.stop()


def test_a_file_of_another_format_ends_start_up_with_its_name(tiny_models: Path, tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "data.mdb").write_text("something else" * 1000)
    ended = baton("serve", BATON_PORT="0", BATON_MODELS_DIR=str(tiny_models), BATON_STATE_DIR=str(tmp_path))
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert f"{tmp_path}/states/data.mdb: it is of another format or version" in last
    assert "Traceback" not in ended.stderr


def test_a_disk_that_is_full_costs_only_what_is_to_be_held(
    tiny_models: Path, small_disk: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, small_disk, BATON_MAX_ITEMS="1024")
    (begun,) = step(server, {"inputs": ROWS[:4]}, hold="server")
    (token,) = step(server, {"inputs": ROWS[:4]})
    filler = small_disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        os.posix_fallocate(file.fileno(), 0, 2**20)
    while shutil.disk_usage(small_disk).free:
        with filler.open("ab", buffering=0) as file:
            file.write(bytes(4096))
    many = [{"inputs": [[number, 5]]} for number in range(200)]
    answer = server.post("/v1/step", {"model": "stepper", "items": many, "hold": "server"})
    assert code(answer) == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"
    for kept in (begun, token):
        (after,) = step(server, {**state_of(kept), "inputs": ROWS[4:]}, hold="client")
        assert after["step"] == 12
    filler.unlink()
    results = step(server, *many, hold="server")
    assert all(result["held"] for result in results)
    server.stop()


def test_a_redis_that_is_down_or_hangs_costs_only_what_needs_it_and_nothing_is_lost(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_STORE=redis_server.url)
    expected = whole(server, ROWS)
    (held,) = step(server, {"inputs": ROWS[:4]}, hold="server")
    (token,) = step(server, {"inputs": ROWS[:4]})
    redis_server.pause()
    assert_only_held_fail(server, held, token, expected)
    redis_server.go_on()
    for again in range(2):
        (after,) = step(server, {**state_of(held), "inputs": ROWS[4:]}, **{"return": "all"})
        np.testing.assert_allclose(after["outputs"]["y"], expected[4:], atol=CLOSE)
        assert after["held"], again
    redis_server.stop()
    assert_only_held_fail(server, held, token, expected)
    redis_server.start()
    (begun,) = step(server, {"inputs": ROWS[:4]}, hold="server")
    step(server, {**state_of(begun), "inputs": ROWS[4:]})
    assert server.metric("baton_store_failures_total", "operation", "load") == 4
    assert server.metric("baton_store_failures_total", "operation", "save") == 4
    server.stop()


def assert_only_held_fail(server: Server, held: dict, token: dict, expected: np.ndarray) -> None:
    """Both loading and saving fail with 503, alone; while they wait, others are answered."""
    with ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(step, server, {**state_of(held), "inputs": ROWS[4:]}, {"inputs": ROWS})
        (result,) = step(server, {**state_of(token), "inputs": ROWS[4:]})
        assert result["outputs"]["y"] == pytest.approx(expected[-1], abs=CLOSE)
        assert server.client.get("/readyz").status_code == 200
        failed, answered = waiting.result()
    assert failed["error"]["code"] == "store_unavailable"
    assert failed["error"]["field"] == "items[0].state"
    assert failed["error"]["retry_after_ms"] > 0
    assert answered["outputs"]["y"] == pytest.approx(expected[-1], abs=CLOSE)
    for path, item, hold in (
        ("/v1/step", {"inputs": ROWS}, "server"),
        ("/v1/state", state_of(token), "server"),
        ("/v1/state", state_of(held), "client"),
    ):
        answer = server.post(path, {"model": "stepper", "items": [item], "hold": hold})
        assert code(answer) == (503, "store_unavailable")
        assert answer.headers["retry-after"] == "1"


def test_a_value_altered_in_redis_is_refused(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_STORE=redis_server.url)
    (held,) = step(server, {"inputs": [[1, 2]]}, hold="server")
    with redis.Redis.from_url(redis_server.url) as client:
        (key,) = client.keys()
        state = client.get(key)
        for altered in (state[:-1], state + b"\0", bytes(len(state)), np.full(8, np.nan, "<f4").tobytes()):
            client.set(key, altered)
            answer = server.post("/v1/step", {"model": "stepper", "items": [{**state_of(held), "inputs": [[1, 2]]}]})
            assert code(answer) == (410, "state_gone")
        assert any("is not what was saved" in line for line in server.lines)
        client.set(key, state)
    (after,) = step(server, {**state_of(held), "inputs": [[1, 2]]})
    assert after["step"] == 2
    server.stop()


def test_a_session_ends_at_its_limit_of_steps_before_the_run(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_MAX_SESSION_STEPS="5")
    (begun,) = step(server, {"inputs": ROWS[:3]})
    ran = server.metric("baton_steps_total", "model", "stepper")
    longer, fits = step(server, {**state_of(begun), "inputs": ROWS[3:6]}, {**state_of(begun), "inputs": ROWS[3:5]})
    assert (longer["error"]["code"], longer["error"]["limit"]) == ("session_too_long", 2)
    assert longer["error"]["field"] == "items[0].inputs"
    assert fits["step"] == 5
    assert server.metric("baton_steps_total", "model", "stepper") == ran + 2
    step(server, {**state_of(fits), "inputs": ROWS[:1]}, status=422)
    (read,) = step(server, {"text": "a good film"}, model="reader")
    refused, fits = step(
        server, *({**state_of(read), "text": text} for text in ("not very bad", "not bad")), model="reader"
    )
    assert (refused["error"]["code"], refused["error"]["field"]) == ("session_too_long", "items[0].text")
    assert fits["step"] == 5
    server.stop()
