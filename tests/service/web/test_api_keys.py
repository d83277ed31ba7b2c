"""API keys as a service reads them: whose call it is, until when, and what a SIGHUP changes."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Server, ServerFactory
from each_worker import each_worker
from here import Clock, serve_here
from keyring import Keyring
from streams import Stream

from service.settings import Settings

STEP = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}
REREAD = "API keys read again"


def write(file: Path, *keyrings: Keyring, **changes: Any) -> None:
    entries = [entry | changes for keyring in keyrings for entry in keyring.entries]
    file.write_text(json.dumps(entries))


def reread(server: Server, *, says: str = REREAD, workers: int = 1) -> None:
    """Have the service read its keys again, every worker of it."""
    start = len(server.lines)
    server.process.send_signal(signal.SIGHUP)
    for _ in range(workers):
        start += len(server.lines_since(start, until=says))


def status(server: Server, keyring: Keyring | None = None, tenant: str | None = "acme") -> int:
    headers = keyring.header(tenant) if keyring else {}
    return server.post("/v1/step", STEP, headers=headers).status_code


def test_keys_of_a_file_are_read_again_at_a_hangup_by_every_worker(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """New ones open, those that were revoked do not, and the last one's end leaves nothing open."""
    file, first, second = tmp_path / "state" / "api-keys.json", Keyring("acme"), Keyring("acme", "bolt", admin=True)
    file.parent.mkdir()
    write(file, first)
    server = start_server(tiny_models, tmp_path / "state", BATON_WORKERS="2")
    with each_worker(server, 2) as clients:

        def found(keyring: Keyring, tenant: str | None = "acme") -> set[int]:
            headers = keyring.header(tenant)
            return {client.post("/v1/step", json=STEP, headers=headers).status_code for client in clients.values()}

        assert (found(first), found(second)) == ({200}, {401})
        write(file, first, second)
        reread(server, workers=2)
        assert (found(first), found(second), found(second, "bolt")) == ({200}, {200}, {200})
        order = server.client.post("/v2/repository/models/stepper/load", headers=second.header())
        assert order.status_code == 200
        write(file, first, second, revoked=datetime.now(UTC).isoformat())
        reread(server, workers=2)
        assert (found(first), found(second)) == ({401}, {401})
        write(file)
        reread(server, workers=2)
        assert {client.post("/v1/step", json=STEP).status_code for client in clients.values()} == {401}


def test_a_file_that_will_not_do_changes_nothing(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    file, keys = tmp_path / "keys.json", Keyring("acme")
    write(file, keys)
    server = start_server(tiny_models, tmp_path / "state", BATON_API_KEYS_FILE=str(file))
    for content, reason in (
        ("[", "no JSON list of API keys"),
        ('[{"tenant": "acme"}]', "0.id: Field required"),
        (json.dumps(keys.entries * 2), "two entries of the same id"),
        (json.dumps([keys.entries[0] | {"admin": True}]), '"tenant" is a name, or "admin" is true'),
    ):
        file.write_text(content)
        reread(server, says=reason)
        assert (status(server, keys), status(server)) == (200, 401)
    file.unlink()
    reread(server, says="cannot be read")
    assert (status(server, keys), status(server)) == (200, 401)


def test_a_file_that_comes_later_is_read(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    keys = Keyring("acme")
    server = start_server(tiny_models, tmp_path)
    assert status(server) == 200
    write(tmp_path / "api-keys.json", keys)
    reread(server)
    assert (status(server, keys), status(server)) == (200, 401)


@pytest.mark.anyio
async def test_a_key_opens_until_it_expires_and_its_holder_is_told(tiny_models: Path, tmp_path: Path) -> None:
    keys, clock = Keyring("acme"), Clock()
    until = datetime.fromtimestamp(clock.now + 60, UTC)
    entries = [keys.entries[0] | {"expires": until.isoformat()}]
    async with serve_here(Settings(models_dir=tiny_models, state_dir=tmp_path, api_keys=entries), clock) as (client, _):

        async def ask(key: str) -> httpx.Response:
            return await client.post("/v1/step", json=STEP, headers={"authorization": f"Bearer {key}"})

        assert (await ask(keys["acme"])).status_code == 200
        clock.now += 60
        id = keys.entries[0]["id"]
        refusal = (await ask(keys["acme"])).json()["error"]
        assert (refusal["code"], refusal["message"]) == (
            "unauthorized",
            f"the API key {id} expired on {until:%Y-%m-%d}",
        )
        guess = await ask(keys["acme"][:-1] + ("A" if keys["acme"][-1] != "A" else "B"))
        assert "expired" not in guess.text


@pytest.mark.anyio
async def test_what_is_nearly_a_key_is_none(tiny_models: Path, tmp_path: Path) -> None:
    keys, others = Keyring("acme", "bolt", admin=True), Keyring("acme")
    settings = Settings(models_dir=tiny_models, state_dir=tmp_path, api_keys=keys.entries)
    mark, id, secret = keys["acme"].split("_", 2)
    near = [
        *("", "Bearer", f"Bearer {mark}_{id}_", f"Bearer {mark}_{id}", f"Bearer {id}_{secret}", keys["acme"]),
        *(f"Bearer {keys['acme'][:cut]}" for cut in range(len(keys["acme"]))),
        *(f"Bearer {mark}_{entry['id']}_{secret}" for entry in keys.entries[1:]),
        *(f"Bearer {keys['acme']}{more}" for more in ("a", "=", "_", " a", "a" * 10_000)),
        *(f"Bearer {entry['hash']}" for entry in keys.entries),
        f"Bearer {mark}_{id}_{keys.entries[0]['hash']}",
        f"Bearer {others['acme']}",
        f"Bearer {keys.admin}",
        f"Basic {keys['acme']}",
        f"Bearer {keys['acme'].upper()}",
    ]
    async with serve_here(settings, Clock()) as (client, _):
        for header in near:
            answer = await client.post("/v1/step", json=STEP, headers={"authorization": header})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), header
        for header in (f"Bearer {keys['acme']}", f"bearer  {keys['acme']} ", f"BEARER {keys['bolt']}"):
            answer = await client.post("/v1/step", json=STEP, headers={"authorization": header})
            assert answer.status_code == 200


def test_a_worker_that_is_replaced_knows_the_keys_that_the_others_know(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """Whatever has become of the file since the last hangup: gone, it would leave the service open to all."""
    file, keys = tmp_path / "api-keys.json", Keyring("acme")
    write(file, keys)
    server = start_server(tiny_models, tmp_path, BATON_WORKERS="2")
    for spoil in (file.unlink, lambda: file.write_text("["), lambda: write(file, Keyring("bolt"))):
        spoil()
        start = len(server.lines)
        with each_worker(server, 2) as clients:
            os.kill(min(clients), signal.SIGKILL)
        server.lines_since(start, until="is replaced")
        server.lines_since(start, until="Application startup complete")
        with each_worker(server, 2) as clients:
            for client in clients.values():
                headers = keys.header("acme")
                assert client.post("/v1/step", json=STEP, headers=headers).status_code == 200
                assert client.post("/v1/step", json=STEP).status_code == 401


def test_a_stream_that_was_open_before_there_were_keys_ends_with_what_it_has(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path)
    with Stream(server) as stream:
        stream.ask(inputs=[[1, 2]])
        write(tmp_path / "api-keys.json", Keyring("acme"))
        reread(server)
        stream.send(inputs=[[1, 2]])
        (checkpoint, refusal), code = stream.end()
    assert (checkpoint["step"], refusal["error"]["code"], code) == (1, "unauthorized", 1008)


def test_two_keys_of_a_tenant_are_of_the_same_tenant(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """One of them comes from the environment; a state made with one is used with the other."""
    first, second = Keyring("acme"), Keyring("acme")
    write(tmp_path / "api-keys.json", first)
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=second.setting)
    (result,) = server.post("/v1/step", STEP, headers=first.header("acme")).json()["results"]
    on = {"model": "stepper", "items": [{"inputs": [[1, 2]], "state": result["state"]}]}
    (result,) = server.post("/v1/step", on, headers=second.header("acme")).json()["results"]
    assert result["step"] == 2


def test_a_stream_whose_key_is_revoked_ends_with_what_it_has(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    file, revoked, other = tmp_path / "api-keys.json", Keyring("acme"), Keyring("acme")
    write(file, revoked, other)
    server = start_server(tiny_models, tmp_path)
    with Stream(server, api_key=revoked["acme"]) as stream:
        stream.ask(inputs=[[1, 2]])
        write(file, other)
        reread(server)
        stream.send(inputs=[[1, 2]])
        (checkpoint, refusal), code = stream.end()
    assert (checkpoint["type"], checkpoint["step"]) == ("checkpoint", 1)
    assert (refusal["error"]["code"], refusal["final"], code) == ("unauthorized", True, 1008)
    with Stream(server, api_key=other["acme"], state=checkpoint["state"]) as stream:
        assert stream.opened["step"] == 1
