"""`baton keys api`: keys that a service takes, of which no more than a hash is kept."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, run
from conftest import ServerFactory, baton

STEP = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("BATON_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "api-keys.json"


def api(*arguments: str) -> Ended:
    return run("keys", "api", *arguments)


def entries(file: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(file.read_text())
    return content


def test_a_key_opens_the_service_and_is_nowhere_but_where_it_was_shown(
    file: Path, tiny_models: Path, start_server: ServerFactory
) -> None:
    made = [api("new", "acme"), api("new", "acme", "--name", "laptop", "--days", "90"), api("new", "--admin")]
    keys = [ended.stdout.strip() for ended in made]
    assert len(set(keys)) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept, listed = file.read_text(), api("list").stdout
    for ended, key in zip(made, keys, strict=True):
        secret = key.split("_", 2)[2]
        assert len(secret) == 43
        assert not [text for text in (kept, listed, ended.stderr) if secret in text]
    assert len({entry["salt"] for entry in entries(file)}) == 3
    server = start_server(tiny_models, file.parent)
    assert not [key for key in keys if any(key in line for line in server.lines)]

    def status(path: str, key: str) -> int:
        return server.post(path, STEP, headers={"authorization": f"Bearer {key}"}).status_code

    assert [status("/v1/step", key) for key in keys] == [200, 200, 401]
    order = server.client.post("/v2/repository/models/stepper/load", headers={"authorization": f"Bearer {keys[2]}"})
    assert order.status_code == 200
    server.stop()


def test_keys_are_listed_with_whose_they_are_and_whether_they_open(file: Path) -> None:
    api("new", "acme")
    api("new", "bolt", "--name", "ci", "--days", "1")
    api("new", "--admin")
    ids = [entry["id"] for entry in entries(file)]
    assert api("revoke", ids[0]).status == 0
    rows = [line.split() for line in api("list").stdout.splitlines()[1:]]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        (ids[0], "acme", "default"),
        (ids[1], "bolt", "ci"),
        (ids[2], "(admin)", "default"),
    ]
    assert [" ".join(row[5:]) for row in rows] == ["was revoked", "opens", "opens"]
    assert rows[1][4] > rows[1][3]


def test_a_revoked_key_s_name_is_free_and_its_entry_stays(file: Path) -> None:
    api("new", "acme")
    (first,) = entries(file)
    again = api("new", "acme")
    assert (again.status, "acme has a key 'default' already; give --name, or revoke" in again.stderr) == (1, True)
    assert entries(file) == [first]
    assert api("revoke", first["id"]).status == api("revoke", first["id"]).status == 0
    revoked, second = (api("new", "acme"), entries(file))[1]
    assert {name: revoked[name] for name in first} == first
    assert "revoked" in revoked
    assert "revoked" not in second


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("new",), "name a tenant, or give --admin"),
        (("new", "acme", "--admin"), "name a tenant, or give --admin"),
        (("new", ""), "tenant '' is none: String should have at least 1 character"),
        (("new", " acme"), "tenant ' acme' is none: Value error, printable characters, and no space at an end"),
        (("new", "acme", "--name", "a\nb"), "name 'a\\nb' is none"),
        (("new", "acme", "--days", "0"), "Invalid value for '--days'"),
        (("revoke", "0123456789ab"), "has no key '0123456789ab'; `baton keys api list` shows those that are there"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(file: Path, arguments: tuple[str, ...], says: str) -> None:
    api("new", "acme", "--name", "first")
    before = file.read_bytes()
    ended = api(*arguments)
    assert ended.status != 0
    assert says in " ".join(ended.stderr.split())
    assert file.read_bytes() == before


def test_a_file_that_holds_no_keys_is_left_as_it_is(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("{}")
    for arguments in (("new", "acme"), ("list",), ("revoke", "0123456789ab")):
        ended = api(*arguments)
        assert (ended.status, str(file) in ended.stderr) == (1, True)
    assert file.read_text() == "{}"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    ended = baton("keys", "api", "new", "acme", BATON_API_KEYS_FILE=str(tmp_path / "taken" / "keys.json"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "cannot be kept in" in ended.stderr
    assert "BATON_API_KEYS_FILE" in ended.stderr


def test_no_key_is_lost_where_several_are_made_at_once(file: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda n: baton("keys", "api", "new", f"tenant-{n}", BATON_STATE_DIR=str(file.parent)), range(8))
        )
    assert {ended.returncode for ended in made} == {0}
    assert {entry["tenant"] for entry in entries(file)} == {f"tenant-{n}" for n in range(8)}


def test_without_keys_the_list_says_that_nobody_is_asked(file: Path) -> None:
    ended = api("list")
    assert (ended.status, ended.stdout) == (0, "")
    assert "nobody is asked for one" in ended.stderr
