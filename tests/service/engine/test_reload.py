"""SIGHUP: the models directory is looked at again while sessions go on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
from conftest import ROOT, Server, ServerFactory
from here import Clock, serve_here

from service.engine.engine import Engine
from service.engine.registry import Registry
from service.engine.versions import load_tried
from service.errors import NotReady, StateExpired
from service.settings import Settings

CLOSE = 1e-5
ROWS = np.random.default_rng(5).normal(size=(12, 2)).tolist()
KEYS = '["' + "A" * 43 + '"]'
TTL_S = 1000


def items(*items: dict, model: str = "stepper", **options: object) -> dict:
    return {"model": model, "items": list(items), "return": "all", **options}


def step(server: Server, item: dict) -> dict:
    (result,) = server.post("/v1/step", items(item)).json()["results"]
    return result


def reload(server: Server, until: str = "models reloaded") -> list[str]:
    """Ask the service to look at its models; return what it logged until `until`."""
    start = server.mark()
    server.process.send_signal(signal.SIGHUP)
    return server.lines_since(start, until=until)


def outcome(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def lines(server: Server) -> dict[str, dict]:
    return {line["name"]: line for line in server.client.get("/v1/models").json()["models"]}


@contextmanager
def steady_load(server: Server, clients: int = 4, **headers: str) -> Iterator[list[tuple[str, list]]]:
    """Keep sessions going for `clients`; the list gets each finished session's version and outputs."""
    ended, sessions, failures = threading.Event(), [], []

    def go_on() -> None:
        try:
            with httpx.Client(base_url=server.url or "", timeout=30, headers=headers) as client:
                while not ended.is_set():
                    state, versions, made = {}, set(), []
                    for row in ROWS:
                        answer = client.post("/v1/step", json=items({**state, "inputs": [row]})).raise_for_status()
                        (result,) = answer.json()["results"]
                        state = {"state": result["state"]}
                        versions.add(result["version"])
                        made += result["outputs"]["y"]
                    (version,) = versions
                    sessions.append((version, made))
        except Exception as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=go_on) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield sessions
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    assert not failures


def test_a_new_version_begins_new_sessions_and_the_old_one_goes_on_with_its_own_under_load(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    models = tmp_path / "models"
    tiny.stepper(models, seed=1)
    server = start_server(models, tmp_path / "state")
    whole = {"1": step(server, {"inputs": ROWS})["outputs"]["y"]}
    before = step(server, {"inputs": ROWS[:5]})
    with steady_load(server) as sessions:
        tiny.stepper(models, version="2", seed=2)
        tiny.reader(models)
        reload(server)
        whole["2"] = step(server, {"inputs": ROWS})["outputs"]["y"]
        so_far = len(sessions)
        while len(sessions) < so_far + 8:
            step(server, {"inputs": ROWS})
    assert {version for version, _ in sessions} == {"1", "2"}
    for version, made in sessions:
        np.testing.assert_allclose(made, whole[version], atol=CLOSE)
    after = step(server, {"state": before["state"], "inputs": ROWS[5:]})
    assert (after["version"], after["step"]) == ("1", 12)
    np.testing.assert_allclose(after["outputs"]["y"], whole["1"][5:], atol=CLOSE)
    assert not np.allclose(whole["1"], whole["2"], atol=0.01)
    shown = lines(server)
    assert (shown["stepper"]["version"], shown["stepper"]["versions"]) == ("2", ["1", "2"])
    assert shown["stepper"]["retiring"] == {}
    assert server.post("/v1/step", items({"text": "a good film"}, model="reader")).status_code == 200
    assert server.metric("baton_reloads_total", "outcome", "done") == 1
    server.stop()


def test_a_version_whose_directory_is_gone_serves_its_sessions_until_its_end_and_is_then_unloaded(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    models = tmp_path / "models"
    tiny.stepper(models, seed=1)
    second = tiny.stepper(models, version="2", seed=2)
    server = start_server(models, tmp_path / "state", BATON_STATE_TTL_S="4")
    begun = step(server, {"inputs": ROWS[:5]})
    shutil.rmtree(second)
    start = server.mark()
    logged = reload(server, until="is retiring")
    until = lines(server)["stepper"]["retiring"]["2"]
    assert logged[-1].endswith(f"stepper 2 is retiring: its sessions may go on until {until.replace('Z', '+00:00')}")
    going = step(server, {"state": begun["state"], "inputs": ROWS[5:6]})
    assert (going["version"], going["expires_at"]) == ("2", until)
    assert step(server, {"inputs": ROWS[:1]})["version"] == "1"
    server.lines_since(start, until="unloaded stepper 2")
    refused = server.post("/v1/step", items({"state": going["state"], "inputs": ROWS[:1]}))
    assert outcome(refused) == (410, "state_expired")
    assert lines(server)["stepper"]["versions"] == ["1"]
    assert server.metric("baton_model_info", "version", "2") == 0
    assert server.metric("baton_model_info", "version", "1") == 1
    assert server.client.get("/readyz").status_code == 200
    server.stop()


def replace_file(models: Path) -> str:
    (models / "stepper" / "1" / "model.onnx").write_bytes(b"changed")
    return "stepper/1/manifest.json: sha256: is"


def replace_version(models: Path) -> str:
    shutil.rmtree(models / "stepper" / "1")
    tiny.stepper(models, seed=7)
    return "stepper/1/manifest.json: sha256: has changed since stepper 1 was loaded"


def describe_anew(models: Path) -> str:
    file = models / "stepper" / "1" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "description": "better"}))
    return "stepper/1/manifest.json: description: has changed since stepper 1 was loaded"


def add_half_a_version(models: Path) -> str:
    (tiny.stepper(models, version="2") / "model.onnx").unlink()
    return "stepper/2/manifest.json: file: model.onnx is missing"


def add_a_liar(models: Path) -> str:
    tiny.stepper(models, version="2", direction="bidirectional")
    return "stepper/2/manifest.json: streamable: chunks with carried state differ"


def remove_everything(models: Path) -> str:
    shutil.rmtree(models)
    return "models_dir: is no directory"


def lose_sight_of_a_model(models: Path) -> str:
    """Its disk is not mounted, say: that is no wish to retire it."""
    (models / "stepper").rename(models.parent / "away")
    (models / "stepper").symlink_to("/nowhere")
    return "stepper: models_dir: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "spoil",
    [
        *(replace_file, replace_version, describe_anew, add_half_a_version, add_a_liar, remove_everything),
        lose_sight_of_a_model,
    ],
)
def test_a_reload_that_finds_anything_wrong_changes_nothing(
    spoil: Callable[[Path], str], tmp_path: Path, start_server: ServerFactory
) -> None:
    models = tmp_path / "models"
    tiny.stepper(models, seed=1)
    server = start_server(models, tmp_path / "state")
    whole = step(server, {"inputs": ROWS})
    before = lines(server)
    says = spoil(models)
    if models.exists():
        tiny.reader(models)  # nothing wrong with this one
    (*_, line) = reload(server, until="not reloaded")
    assert " ERROR " in line
    assert says in line
    assert server.metric("baton_reloads_total", "outcome", "refused") == 1
    assert server.metric("baton_load_refused") == 1
    assert lines(server) == before
    fresh, going = (step(server, item) for item in ({"inputs": ROWS}, {"state": whole["state"], "inputs": ROWS}))
    np.testing.assert_allclose(fresh["outputs"]["y"], whole["outputs"]["y"], atol=CLOSE)
    assert (going["version"], going["step"]) == ("1", 24)
    server.stop()
    assert not any("Traceback" in line for line in server.lines)


def test_a_version_that_is_refused_under_load_harms_no_session_and_is_taken_up_once_it_is_mended(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    models = tmp_path / "models"
    tiny.stepper(models, seed=1)
    server = start_server(models, tmp_path / "state")
    whole = {"1": step(server, {"inputs": ROWS})["outputs"]["y"]}
    with steady_load(server) as sessions:
        add_a_liar(models)
        reload(server, until="not reloaded")
        so_far = len(sessions)
        while len(sessions) < so_far + 8:
            assert server.client.get("/readyz").status_code == 200
        assert {version for version, _ in sessions} == {"1"}
        shutil.rmtree(models / "stepper" / "2")
        tiny.stepper(models, version="2", seed=2)
        reload(server)
        so_far = len(sessions)
        while len(sessions) < so_far + 8:
            assert server.client.get("/readyz").status_code == 200
    whole["2"] = step(server, {"inputs": ROWS})["outputs"]["y"]
    assert {version for version, _ in sessions} == {"1", "2"}
    for version, made in sessions:
        np.testing.assert_allclose(made, whole[version], atol=CLOSE)
    assert server.metric("baton_load_refused") == 0
    server.stop()


def test_every_worker_reloads_and_a_worker_that_is_replaced_loads_what_is_there(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    models = tmp_path / "models"
    tiny.stepper(models, seed=1)
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2")
    begun = step(server, {"inputs": ROWS[:5]})
    tiny.stepper(models, version="2", seed=2)
    with steady_load(server, connection="close") as sessions:  # so that each step may be at another worker
        start = server.mark()
        server.process.send_signal(signal.SIGHUP)
        pids = set()
        for _ in range(2):
            written = server.lines_since(start, until="models reloaded")
            pids.add(int(written[-1].split()[3]))
            start += len(written)
        so_far = len(sessions)
        while len(sessions) < so_far + 8:
            step(server, {"inputs": ROWS})
    assert len(pids) == 2
    assert {version for version, _ in sessions} == {"1", "2"}
    start = server.mark()
    os.kill(pids.pop(), signal.SIGKILL)
    server.lines_since(start, until="Application startup complete")
    for _ in range(20):
        with httpx.Client(base_url=server.url or "", timeout=30) as client:  # at either worker
            answer = client.post("/v1/step", json=items({"inputs": ROWS}, {"state": begun["state"], "inputs": ROWS}))
            assert [result["version"] for result in answer.json()["results"]] == ["2", "1"]
    assert server.metric("baton_reloads_total", "outcome", "done") == 2
    server.stop()
    assert server.process.returncode == 0


@pytest.mark.parametrize(
    ("workers", "early", "reloads"),
    [
        (1, "baton.loading loaded", 1),
        (2, "baton.trial trying", 2),
        (2, "baton.loading loaded", 2),
    ],
)
def test_a_sighup_that_comes_while_the_models_load_is_acted_on_afterwards(
    workers: int, early: str, reloads: int, tiny_models: Path, tmp_path: Path
) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    own = {"BATON_MODELS_DIR": str(tiny_models), "BATON_STATE_DIR": str(tmp_path), "BATON_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--workers", str(workers)],
        env={**inherited, **own},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        next(line for line in process.stderr if early in line)
        process.send_signal(signal.SIGHUP)
        awaited = ["Uvicorn running", *["models reloaded"] * reloads]
        while awaited:
            line = next(process.stderr)
            for text in awaited:
                if text in line:
                    awaited.remove(text)
                    break
        process.terminate()


def test_a_sigterm_during_a_reload_drains_as_ever(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    models = shutil.copytree(tiny_models, tmp_path / "models")
    server = start_server(models, tmp_path / "state")
    for version in range(2, 12):
        tiny.stepper(models, version=str(version))
    reload(server, until="loaded stepper 2")
    server.stop()
    assert server.process.returncode == -signal.SIGTERM
    assert not any("Traceback" in line for line in server.lines), "\n".join(server.lines)


def test_a_lazy_service_loads_a_model_when_it_is_asked_for_also_when_its_directory_is_gone(
    two_versions: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    eager = start_server(two_versions / "models", tmp_path / "state", BATON_TOKEN_KEYS=KEYS)
    whole = step(eager, {"inputs": ROWS})
    began = step(eager, {"inputs": ROWS[:5]})
    eager.stop()
    models = two_versions / "models"
    lazy = start_server(models, tmp_path / "state", BATON_TOKEN_KEYS=KEYS, BATON_LOAD="lazy")
    assert {line["device"] for line in lazy.client.get("/v1/models").json()["models"]} == {"cpu"}
    shutil.rmtree(models / "stepper" / "2")
    reload(lazy)
    assert not any("asked for" in line for line in lazy.lines)
    went_on = step(lazy, {"inputs": ROWS[5:], "state": began["state"]})
    assert went_on["version"] == whole["version"] == "2"
    np.testing.assert_allclose(went_on["outputs"]["y"], whole["outputs"]["y"][5:], atol=CLOSE)
    assert step(lazy, {"inputs": ROWS[:1]})["version"] == "1"
    loaded = [line for line in lazy.lines if "asked for" in line]
    assert [line.split(" loading ")[1] for line in loaded] == [f"stepper {v}, which is asked for" for v in (2, 1)]
    lazy.stop()


class Service:
    """The service in this process: `models` on disk, its time in `clock`."""

    def __init__(self, client: httpx.AsyncClient, models: Path, clock: Clock, engines: Registry) -> None:
        self.client, self.models, self.clock, self.engines = client, models, clock, engines

    async def reload(self) -> None:
        """Send SIGHUP and wait until the models have been looked at."""
        before = await self.reloads()
        os.kill(os.getpid(), signal.SIGHUP)
        for _ in range(10_000):
            if await self.reloads() != before:
                return
            await asyncio.sleep(0)  # a call in this process need not let the event loop go on
        raise AssertionError("SIGHUP came to nothing")

    async def reloads(self) -> list[str]:
        text = (await self.client.get("/metrics")).text
        return [line for line in text.splitlines() if line.startswith("baton_reloads_total")]

    async def post(self, *tokens: str | None) -> httpx.Response:
        """Take one step of a session of each token, of a new one for None."""
        steps = [{"inputs": ROWS[:1], **({"state": token} if token else {})} for token in tokens]
        return await self.client.post("/v1/step", json=items(*steps))

    async def step(self, token: str | None = None) -> dict:
        (result,) = (await self.post(token)).raise_for_status().json()["results"]
        return result

    async def line(self) -> dict | None:
        return next(iter((await self.client.get("/v1/models")).json()["models"]), None)


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if happened():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


@asynccontextmanager
async def service(root: Path, clock: Clock) -> AsyncIterator[Service]:
    models = root / "models"
    settings = Settings(models_dir=models, state_dir=root / "state", state_ttl_s=TTL_S, token_keys=json.loads(KEYS))
    async with serve_here(settings, clock) as (client, app):
        yield Service(client, models, clock, app.state.service.engines)


def shown(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture
def two_versions(tmp_path: Path) -> Path:
    tiny.stepper(tmp_path / "models", seed=1)
    tiny.stepper(tmp_path / "models", seed=2, version="2")
    return tmp_path


@pytest.mark.anyio
async def test_tokens_of_a_retiring_version_expire_no_later_than_it_ends(two_versions: Path) -> None:
    clock = Clock()
    async with service(two_versions, clock) as running:
        began = clock.now
        first = await running.step()
        assert (first["version"], first["expires_at"]) == ("2", shown(began + TTL_S))
        shutil.rmtree(running.models / "stepper" / "2")
        clock.now += 100
        await running.reload()
        end = shown(began + 100 + TTL_S)
        clock.now += 300
        going = await running.step(first["state"])
        assert (going["version"], going["expires_at"]) == ("2", end)
        fresh = await running.step()
        assert (fresh["version"], fresh["expires_at"]) == ("1", shown(clock.now + TTL_S))
        line = await running.line()
        assert (line["version"], line["versions"], line["retiring"]) == ("1", ["1", "2"], {"2": end})
        await running.reload()
        assert (await running.line())["retiring"] == {"2": end}, "a second reload does not put the end off"

        clock.now = began + 100 + TTL_S - 0.001
        last = await running.step(going["state"])
        assert (last["version"], last["expires_at"]) == ("2", end)
        clock.now = began + 100 + TTL_S
        assert outcome(await running.post(last["state"])) == (410, "state_expired")
        assert (await running.step(fresh["state"]))["version"] == "1"


@pytest.mark.anyio
async def test_a_version_that_ended_is_drained_and_its_memory_given_back(two_versions: Path) -> None:
    clock = Clock()
    async with service(two_versions, clock) as running:
        engine = running.engines.get("stepper")
        session = weakref.ref(engine.model.session)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("stepper-2")]
        del engine
        token = (await running.step())["state"]
        shutil.rmtree(running.models / "stepper" / "2")
        await running.reload()
        assert all(thread.is_alive() for thread in threads)
        assert session() is not None
        clock.now += TTL_S
        await running.reload()
        for thread in threads:
            await asyncio.to_thread(thread.join, 10)
        await until(lambda: session() is None)
        assert (await running.line())["versions"] == ["1"]
        metrics = (await running.client.get("/metrics")).text
        assert 'baton_model_info{model="stepper",task="step",version="2"} 0.0' in metrics
        assert outcome(await running.post(token)) == (410, "state_expired")


@pytest.mark.anyio
async def test_work_that_found_its_version_just_before_it_ended_is_told_so(two_versions: Path) -> None:
    tiny.sentiment(two_versions / "models")
    clock = Clock()
    async with service(two_versions, clock) as running:
        stepper, sentiment = running.engines.get("stepper"), running.engines.get("sentiment")
        shutil.rmtree(running.models / "stepper" / "2")
        shutil.rmtree(running.models / "sentiment")
        await running.reload()
        clock.now += TTL_S
        await running.reload()
        await until(lambda: stepper.batcher.draining and sentiment.batcher.draining)
        with pytest.raises(StateExpired, match="has come to its end; begin a new session"):
            stepper.batcher.check_room(1, tenant="")
        with pytest.raises(NotReady, match="send the request again"):
            sentiment.batcher.check_room(1, tenant="")


@pytest.mark.anyio
async def test_a_token_of_a_replica_that_retired_the_version_later_finds_it_gone(two_versions: Path) -> None:
    early, late = Clock(), Clock()
    late.now += 30
    async with service(two_versions, late) as other:
        token = (await other.step())["state"]
    async with service(two_versions, early) as running:
        shutil.rmtree(running.models / "stepper" / "2")
        await running.reload()
        assert (await running.step(token))["version"] == "2"
        early.now += TTL_S
        await running.reload()
        assert outcome(await running.post(token)) == (410, "state_model_gone")


@pytest.mark.anyio
async def test_a_token_of_a_version_that_another_worker_has_loaded_already_waits_for_the_reload_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, behind = tmp_path / "ahead", tmp_path / "behind"
    for root in (ahead, behind):
        tiny.stepper(root / "models", seed=1)
    tiny.stepper(ahead / "models", seed=2, version="2")
    async with service(ahead, Clock()) as other:
        token = (await other.step())["state"]
    async with service(behind, Clock()) as running:
        assert outcome(await running.post(token)) == (410, "state_model_gone")
        loading, go_on = threading.Event(), threading.Event()

        def held(*arguments: Any, **options: Any) -> Engine:
            loading.set()
            go_on.wait(10)
            return load_tried(*arguments, **options)

        monkeypatch.setattr("service.engine.models_directory.load_tried", held)
        tiny.stepper(running.models, seed=2, version="2")
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.to_thread(loading.wait, 10)
        waiting = asyncio.create_task(running.step(token))
        assert (await running.step())["version"] == "1", "the service answers from what it has"
        assert not waiting.done()
        go_on.set()
        assert (await waiting)["version"] == "2"


@pytest.mark.anyio
async def test_a_directory_that_comes_back_before_the_end_serves_on_as_before(two_versions: Path) -> None:
    clock = Clock()
    async with service(two_versions, clock) as running:
        token = (await running.step())["state"]
        directory = running.models / "stepper" / "2"
        away = directory.rename(running.models / ".away")
        await running.reload()
        assert (await running.step())["version"] == "1"
        away.rename(directory)
        clock.now += TTL_S / 2
        await running.reload()
        assert (await running.step())["version"] == "2"
        line = await running.line()
        assert (line["version"], line["retiring"]) == ("2", {})
        going = await running.step(token)
        assert (going["version"], going["expires_at"]) == ("2", shown(clock.now + TTL_S))
        clock.now += TTL_S / 2
        await running.reload()
        assert (await running.step(going["state"]))["version"] == "2"


@pytest.mark.anyio
async def test_a_model_without_any_version_left_takes_no_new_work_but_goes_on_with_its_sessions(
    two_versions: Path,
) -> None:
    clock = Clock()
    async with service(two_versions, clock) as running:
        token = (await running.step())["state"]
        tiny.sentiment(running.models)
        tiny.number_stepper(running.models)
        await running.reload()
        assert (await running.client.post("/v1/sentiment", json={"inputs": ["good"]})).status_code == 200
        shutil.rmtree(running.models / "stepper")
        shutil.rmtree(running.models / "sentiment")
        await running.reload()
        assert outcome(await running.client.post("/v1/sentiment", json={"inputs": ["good"]})) == (404, "unknown_model")
        assert outcome(await running.post(None)) == (404, "unknown_model")
        both = (await running.post(token, None)).json()["results"]
        assert (both[0]["version"], both[1]["error"]["code"]) == ("2", "unknown_model")
        end = shown(clock.now + TTL_S)
        described = (await running.client.get("/v1/models/stepper")).json()
        assert (described["version"], described["retiring"]) == ("2", {"1": end, "2": end})
        clock.now += TTL_S
        await running.reload()
        assert outcome(await running.post(both[0]["state"])) == (404, "unknown_model")
        assert (await running.client.get("/v1/models/stepper")).status_code == 404
