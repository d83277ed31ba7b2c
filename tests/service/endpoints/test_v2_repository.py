"""/v2/repository: what stands on disk, and models loaded and unloaded by hand, at every worker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from conftest import Server, ServerFactory
from each_worker import each_worker
from here import Clock, serve_here, vouched
from keyring import Keyring

from service.app import create_app
from service.engine.engine import Engine
from service.engine.loader import Loader
from service.engine.orders import Order, Orders
from service.engine.versions import load_tried
from service.metrics import Metrics
from service.settings import Settings

WORKERS = 2
KEYS = Keyring("acme", admin=True)
ADMIN, TENANT = KEYS.header(), KEYS.header("acme")
ADMIN_ONLY = json.dumps(KEYS.entries[1:])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny.sentiment(root)
    tiny.stepper(root)
    tiny.number_stepper(root)
    return root


@pytest.fixture(scope="module")
def crew(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers over `models`; each test loads again what it has unloaded."""
    running = Server(models, tmp_path_factory.mktemp("state"), BATON_WORKERS=str(WORKERS), BATON_API_KEYS=KEYS.setting)
    yield running
    running.stop()


@pytest.fixture
def clients(crew: Server) -> Iterator[list[httpx.Client]]:
    """A client for each worker."""
    with each_worker(crew, WORKERS) as found:
        yield list(found.values())


def order(client: httpx.Client, name: str, what: str, **options: Any) -> httpx.Response:
    return client.post(f"/v2/repository/models/{name}/{what}", **{"headers": ADMIN, **options})


def index(client: httpx.Client, name: str, **body: bool) -> dict[str, tuple[str, str]]:
    """Return state and reason of each version of a model."""
    lines = client.post("/v2/repository/index", headers=TENANT, json=body).raise_for_status().json()
    return {line["version"]: (line["state"], line["reason"]) for line in lines if line["name"] == name}


def states(client: httpx.Client, name: str) -> dict[str, str]:
    return {version: state for version, (state, _) in index(client, name).items()}


def step(client: httpx.Client, state: str | None = None, model: str = "stepper") -> dict[str, Any]:
    item = {"inputs": [[1, 2]], **({"state": state} if state else {})}
    body = {"model": model, "items": [item]}
    (result,) = client.post("/v1/step", json=body, headers=TENANT).json()["results"]
    return result


async def take_up(loader: Loader, order: Order) -> None:
    async with loader.carry_out(order):
        pass


def classify(client: httpx.Client) -> int:
    return client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=TENANT).status_code


def test_an_unloaded_model_is_gone_at_every_worker_and_comes_back_when_it_is_loaded(
    crew: Server, clients: list[httpx.Client]
) -> None:
    for asked in clients:
        answer = order(asked, "sentiment", "unload")
        assert (answer.status_code, answer.content) == (200, b"")
        for client in clients:
            assert classify(client) == 404
            assert index(client, "sentiment") == {"1": ("UNAVAILABLE", "unloaded")}
            assert index(client, "sentiment", ready=True) == {}
            assert index(client, "stepper", ready=True) == {"1": ("READY", "")}
        assert order(asked, "sentiment", "unload").status_code == 200
        assert order(asked, "sentiment", "load").status_code == 200
        for client in clients:
            assert classify(client) == 200
            assert index(client, "sentiment") == {"1": ("READY", "")}


def test_neither_a_reload_nor_a_new_worker_brings_back_what_was_unloaded(crew: Server) -> None:
    with each_worker(crew, WORKERS) as found:
        victim, kept = found
        assert order(found[kept], "sentiment", "unload").status_code == 200
        start = crew.mark()
        crew.process.send_signal(signal.SIGHUP)
        for _ in found:
            start += len(crew.lines_since(start, until="models reloaded: numbers 1, stepper 1 answer"))
        os.kill(victim, signal.SIGKILL)
        crew.lines_since(start, until="Application startup complete")
    with each_worker(crew, WORKERS) as found:
        assert victim not in found
        for client in found.values():
            assert classify(client) == 404
            assert index(client, "sentiment") == {"1": ("UNAVAILABLE", "unloaded")}
        assert order(found[kept], "sentiment", "load").status_code == 200
        assert [classify(client) for client in found.values()] == [200, 200]


def test_sessions_of_an_unloaded_model_go_on_and_none_begins_until_it_is_loaded(clients: list[httpx.Client]) -> None:
    token = step(clients[0])["state"]
    assert order(clients[0], "stepper", "unload").status_code == 200
    for client in clients:
        assert step(client)["error"]["code"] == "unknown_model"
        token = step(client, token)["state"]
        state, reason = index(client, "stepper")["1"]
        assert state == "UNAVAILABLE"
        assert reason.startswith("unloaded; its sessions may go on until 20")
    assert order(clients[1], "stepper", "load").status_code == 200
    assert [step(client, token)["step"] for client in clients] == [4, 4]
    assert [step(client)["step"] for client in clients] == [1, 1]


def test_a_load_takes_up_new_versions_of_its_model_and_of_no_other(
    models: Path, crew: Server, clients: list[httpx.Client]
) -> None:
    second = tiny.stepper(models, seed=9, version="2")
    broken = tiny.sentiment(models, version="2")
    (broken / "model.onnx").write_bytes(b"no graph")
    try:
        for client in clients:
            assert index(client, "stepper") == {"1": ("READY", ""), "2": ("UNAVAILABLE", "not loaded yet")}
        done = crew.metric("baton_reloads_total", "outcome", "done")
        assert order(clients[0], "stepper", "load").status_code == 200
        assert crew.metric("baton_reloads_total", "outcome", "done") == done + len(clients)
        for client in clients:
            assert states(client, "stepper") == {"1": "READY", "2": "READY"}
            assert step(client)["version"] == "2"
            assert index(client, "sentiment")["2"] == ("UNAVAILABLE", "not loaded yet")
        refused = crew.metric("baton_reloads_total", "outcome", "refused")
        answer = order(clients[1], "sentiment", "load")
        assert answer.status_code == 400
        assert "sha256" in answer.json()["error"]
        assert crew.metric("baton_reloads_total", "outcome", "refused") == refused + 1
        assert crew.metric("baton_load_refused") == 1
        for client in clients:
            state, reason = index(client, "sentiment")["2"]
            assert state == "UNAVAILABLE"
            assert reason.startswith("version 2: sha256: is ")
            assert str(models) not in reason + answer.text
            assert classify(client) == 200
    finally:
        shutil.rmtree(second)
        shutil.rmtree(broken)
    assert order(clients[0], "stepper", "load").status_code == 200
    assert crew.metric("baton_load_refused") == 0
    for client in clients:
        assert states(client, "stepper") == {"1": "READY", "2": "UNAVAILABLE"}
        assert index(client, "stepper")["2"][1].startswith("retiring; its sessions may go on until 20")


def test_a_version_that_fails_its_trial_stays_unloaded_with_the_reason(
    models: Path, crew: Server, clients: list[httpx.Client]
) -> None:
    """The graph passes every check of its form, but reads a sequence backwards, so that it cannot be continued."""
    wrong = tiny.stepper(models, name="wrong", direction="reverse")
    try:
        answer = order(clients[0], "wrong", "load")
        assert answer.status_code == 400
        assert "a reverse direction" in answer.json()["error"]
        reasons = [index(client, "wrong")["1"] for client in clients]
        assert reasons[0] == reasons[1]
        assert reasons[0][1] in answer.json()["error"]
        wrong = wrong.rename(wrong.with_name("2"))
        assert [index(client, "wrong") for client in clients] == [{"2": ("UNAVAILABLE", "not loaded yet")}] * 2
    finally:
        shutil.rmtree(wrong)
    assert order(clients[0], "wrong", "load").status_code == 404


def test_what_one_worker_cannot_load_no_worker_serves(models: Path, crew: Server) -> None:
    with each_worker(crew, WORKERS) as found, ThreadPoolExecutor(1) as pool:
        second = tiny.number_stepper(models, version="2", description="another")
        try:
            other, asked = found
            os.kill(other, signal.SIGSTOP)
            start = len(crew.lines)
            answer = pool.submit(order, found[asked], "numbers", "load")
            crew.lines_since(start, until=f"{asked} baton.loading loaded numbers 2")
            (second / "model.onnx").write_bytes(b"no graph")
            os.kill(other, signal.SIGCONT)
            assert answer.result().status_code == 400
            assert "version 2: sha256" in answer.result().json()["error"]
            assert [states(client, "numbers") for client in found.values()] == [{"1": "READY", "2": "UNAVAILABLE"}] * 2
        finally:
            shutil.rmtree(second)


def unload_while_stopped(
    crew: Server, client: httpx.Client, asked: int, other: int, pool: ThreadPoolExecutor
) -> tuple[int, Future[httpx.Response]]:
    """Have one worker asked to unload a model while the other stands still; return where the log stood, and the answer
    to come, once the first has done it."""
    os.kill(other, signal.SIGSTOP)
    start = len(crew.lines)
    answer = pool.submit(order, client, "sentiment", "unload")
    crew.lines_since(start, until=f"{asked} baton.loading sentiment unloaded")
    return start, answer


def test_an_order_that_waits_for_another_worker_ends_with_the_one_that_was_asked(crew: Server) -> None:
    with each_worker(crew, WORKERS) as found, ThreadPoolExecutor(1) as pool:
        other, asked = found
        start, answer = unload_while_stopped(crew, found[asked], asked, other, pool)
        os.kill(asked, signal.SIGTERM)
        assert answer.result().status_code == 503
        assert "shutting down" in answer.result().json()["error"]
        crew.lines_since(start, until=f"{asked} baton.app drained")
        os.kill(other, signal.SIGCONT)
        crew.lines_since(start, until="Application startup complete")
    assert not any("Traceback" in line for line in crew.lines[start:])
    with each_worker(crew, WORKERS) as found:
        assert order(found[other], "sentiment", "load").status_code == 200


@pytest.mark.anyio
async def test_orders_are_carried_out_where_nobody_follows_reloads(tmp_path: Path) -> None:
    """What follows them may have died."""
    tiny.sentiment(tmp_path)
    loader = Loader(Settings(models_dir=tmp_path), Metrics(), Clock(), vouched(tmp_path))
    loader.start()
    await take_up(loader, Order("sentiment", wanted=False))
    assert loader.engines.all == []
    await take_up(loader, Order("sentiment", wanted=True))
    assert [engine.manifest.name for engine in loader.engines.all] == ["sentiment"]
    await loader.drain()


@pytest.mark.anyio
async def test_what_is_ready_does_not_answer_before_it_is_taken_up_and_is_gone_once_dropped(tmp_path: Path) -> None:
    tiny.sentiment(tmp_path)
    loader = Loader(Settings(models_dir=tmp_path, load="lazy"), Metrics(), Clock(), vouched(tmp_path))
    loader.start()
    before, files = loader.engines.all, os.listdir("/proc/self/fd")
    tiny.sentiment(tmp_path, version="2")

    async def drop() -> None:
        async with loader.carry_out(Order("sentiment", wanted=True)):
            assert loader.engines.all == before
            assert not loader.engines.settled.is_set(), "a token that another process sealed waits"
            assert os.listdir("/proc/self/fd") != files
            raise LookupError

    with pytest.raises(LookupError):
        await drop()
    assert loader.engines.all == before
    assert loader.engines.settled.is_set()
    assert os.listdir("/proc/self/fd") == files, "a version that was not loaded yet lets go of its files"
    await take_up(loader, Order("sentiment", wanted=False))
    await loader.drain()


@pytest.mark.anyio
async def test_a_version_on_trial_is_shown_as_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, loading, go_on = tmp_path / "models", threading.Event(), threading.Event()

    def held(*arguments: Any, **options: Any) -> Engine:
        loading.set()
        go_on.wait(10)
        return load_tried(*arguments, **options)

    async def shown(client: httpx.AsyncClient) -> dict[str, str]:
        lines = (await client.post("/v2/repository/index")).json()
        return {f"{line['name']} {line['version']}": line["state"] for line in lines}

    tiny.stepper(models)
    async with serve_here(Settings(models_dir=models, state_dir=tmp_path), Clock()) as (client, app):
        monkeypatch.setattr("service.engine.models_directory.load_tried", held)
        tiny.stepper(models, version="2")
        taking_up = asyncio.create_task(take_up(app.state.service.loader, Order("stepper", wanted=True)))
        await asyncio.to_thread(loading.wait, 10)
        assert await shown(client) == {"stepper 1": "READY", "stepper 2": "LOADING"}
        assert not app.state.service.engines.settled.is_set(), "a token that another process sealed waits"
        go_on.set()
        await taking_up
        assert await shown(client) == {"stepper 1": "READY", "stepper 2": "READY"}


def test_orders_at_once_are_followed_one_by_one_and_the_workers_agree(clients: list[httpx.Client]) -> None:
    orders = [
        (client, name, what) for client in clients for name in ("sentiment", "numbers") for what in ("unload", "load")
    ]
    with ThreadPoolExecutor(len(orders)) as pool:
        answers = list(pool.map(lambda asked: order(*asked), orders * 3))
    assert {answer.status_code for answer in answers} == {200}
    for name in ("sentiment", "numbers"):
        first, second = (states(client, name) for client in clients)
        assert first == second
        assert order(clients[0], name, "load").status_code == 200
        assert [states(client, name) for client in clients] == [{"1": "READY"}, {"1": "READY"}]


def test_an_order_waits_for_the_worker_that_takes_the_place_of_one_that_died(crew: Server) -> None:
    with each_worker(crew, WORKERS) as found, ThreadPoolExecutor(1) as pool:
        victim, asked = found
        _, answer = unload_while_stopped(crew, found[asked], asked, victim, pool)
        assert not answer.done()
        os.kill(victim, signal.SIGKILL)
        assert answer.result().status_code == 200
    with each_worker(crew, WORKERS) as found:
        assert [classify(client) for client in found.values()] == [404, 404]
        assert order(found[asked], "sentiment", "load").status_code == 200


def test_a_worker_that_dies_over_an_order_leaves_the_next_one_free(crew: Server) -> None:
    with each_worker(crew, WORKERS) as found, ThreadPoolExecutor(1) as pool:
        other, asked = found
        start, answer = unload_while_stopped(crew, found[asked], asked, other, pool)
        os.kill(asked, signal.SIGKILL)
        assert isinstance(answer.exception(), httpx.TransportError)
        os.kill(other, signal.SIGCONT)
        crew.lines_since(start, until="Application startup complete")
        assert order(found[other], "numbers", "unload").status_code == 200
        assert classify(found[other]) == 404
    with each_worker(crew, WORKERS) as found:
        for name in ("sentiment", "numbers"):
            assert [index(client, name)["1"][0] for client in found.values()] == ["UNAVAILABLE"] * 2
            assert order(found[other], name, "load").status_code == 200


@pytest.mark.parametrize("what", ["load", "unload"])
def test_an_order_asks_for_the_admin_key(crew: Server, what: str) -> None:
    near = [{"authorization": f"Bearer {KEYS.admin}-"}, {"authorization": KEYS.admin}]
    for name, headers in product(("sentiment", "nope"), ({}, TENANT, *near)):
        answer = order(crew.client, name, what, headers=headers)
        assert answer.status_code == 401
        assert "admin key" in answer.json()["error"]
    assert states(crew.client, "sentiment") == {"1": "READY"}


@pytest.mark.parametrize("path", ["/v1/models", "/v1/info", "/v2/models/stats", "/v2/repository/indices"])
def test_the_admin_key_opens_nothing_else(crew: Server, path: str) -> None:
    assert crew.client.get(path, headers=ADMIN).status_code == 401
    assert crew.client.post("/v2/repository/index", headers=ADMIN).status_code == 401


def test_where_nobody_has_an_admin_key_nobody_gives_an_order(server: Server, tmp_path: Path, tiny_models: Path) -> None:
    assert order(server.client, "sentiment", "unload").status_code == 401
    settings = Settings(models_dir=tiny_models, state_dir=tmp_path, store="memory")
    with Orders.shared(processes=1) as orders:
        document = create_app(settings, orders=orders).openapi()
    paths = document["paths"]
    assert "$defs" not in str(document), "what a reference leads to stands in the components"
    for what in ("load", "unload"):
        assert paths[f"/v2/repository/models/{{name}}/{what}"]["post"]["security"] == [{"Admin": []}]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 200, ""),
        (b"{}", 200, ""),
        (b'{"parameters": {}}', 200, ""),
        (b'{"parameters": {"unload_dependents": true}}', 200, ""),
        (b'{"parameters": {"unload_dependents": "yes"}}', 400, "parameters.unload_dependents must be true or false"),
        (b'{"parameters": {"config": "{}"}}', 400, "parameters.config: a model is served as its directory has it"),
        (b'{"parameters": {"file:1/model.onnx": "AAAA"}}', 400, "parameters.file:1/model.onnx: a model is served as"),
        (b'{"parameters": {"speed": 1}}', 400, "parameters.speed is no parameter of this call"),
        (b'{"model": "x"}', 400, "model is no member of this request"),
        (b"[]", 400, "should be an object"),
        (b"{", 400, "EOF while parsing"),
        (b"x" * 5000, 413, "the body is larger than 4096 bytes"),
    ],
)
def test_a_body_is_triton_s_or_refused_with_what_would_be_right(
    one_worker: Server, body: bytes, status: int, says: str
) -> None:
    for what in ("load", "unload"):
        answer = order(one_worker.client, "sentiment", what, content=body)
        assert answer.status_code == status
        assert says in answer.text


@pytest.fixture(scope="module")
def one_worker(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = tmp_path_factory.mktemp("state")
    running = Server(models, state, BATON_API_KEYS=ADMIN_ONLY, BATON_MAX_BODY_BYTES="4096")
    yield running
    running.stop()


@pytest.mark.parametrize("body", [b'{"ready": 1}', b'{"redy": true}', b"true", b"nothing"])
def test_an_index_with_a_body_that_asks_for_something_else_is_refused(one_worker: Server, body: bytes) -> None:
    assert one_worker.client.post("/v2/repository/index", content=body).status_code == 400
    compressed = one_worker.client.post("/v2/repository/index", content=body, headers={"content-encoding": "gzip"})
    assert compressed.status_code == 415


@pytest.mark.parametrize("name", ["nope", "..", "%2e%2e", "sentiment%2f1", ".lock", "a" * 300])
def test_an_order_for_what_is_not_there_names_what_is(one_worker: Server, name: str) -> None:
    for what in ("load", "unload"):
        answer = order(one_worker.client, name, what)
        assert answer.status_code == 404
    if name == "nope":
        assert answer.json() == {"error": "no model is called 'nope'; there is numbers, sentiment, stepper"}


def test_the_last_model_can_be_unloaded_and_a_restart_forgets_it(tmp_path: Path, start_server: ServerFactory) -> None:
    tiny.sentiment(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state", BATON_API_KEYS=ADMIN_ONLY)
    start = server.mark()
    assert server.metric("baton_run_threads", "model", "sentiment") == 2
    assert order(server.client, "sentiment", "unload").status_code == 200
    server.lines_since(start, until="sentiment unloaded: no models answer")
    assert server.metric("baton_run_threads", "model", "sentiment") == 0
    assert classify(server.client) == 404
    assert server.client.get("/v1/models").json() == {"models": []}
    server.stop()
    server.start()
    assert classify(server.client) == 200
    server.stop()
