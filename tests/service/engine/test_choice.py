"""serve.json: which version of a model answers new work, while the others go on with their own sessions."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from conftest import ADMIN, Server, ServerFactory, baton

ROW = [[0.5, -0.5]]
ADMIN_HEADER = ADMIN.header()


def choose(models: Path, content: object, model: str = "stepper") -> Path:
    file = models / model / "serve.json"
    file.write_text(json.dumps(content))
    return file


def step(server: Server, **state: str) -> dict:
    answer = server.post("/v1/step", {"model": "stepper", "items": [{"inputs": ROW, **state}]}).raise_for_status()
    return answer.json()["results"][0]


def reload(server: Server, until: str) -> str:
    start = server.mark()
    server.process.send_signal(signal.SIGHUP)
    return server.lines_since(start, until=until)[-1]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    tiny.stepper(tmp_path / "models", seed=1)
    tiny.sentiment(tmp_path / "models")
    return tmp_path / "models"


def test_a_version_only_goes_on_with_its_sessions_while_another_is_chosen(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny.stepper(models, seed=2, version="2")
    tiny.sentiment(models, version="2")
    for model in ("stepper", "sentiment"):
        choose(models, {"version": "1"}, model)
    server = start_server(models, tmp_path / "state")
    assert any("stepper 1 answers new work, as serve.json says" in line for line in server.lines)
    first = step(server)
    assert first["version"] == "1"
    assert server.post("/v1/sentiment", {"inputs": ["a film"]}).json()["version"] == "1"
    infer = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 2], "data": [0.5, -0.5]}]}
    answer = server.post("/v2/models/stepper/infer", infer).json()
    assert answer["model_version"] == "1", answer
    (line,) = (one for one in server.client.get("/v1/models").json()["models"] if one["name"] == "stepper")
    assert (line["version"], line["versions"], line["retiring"]) == ("1", ["1", "2"], {})
    shown = json.loads(baton("models", str(models), "--json").stdout)["models"]
    assert {each["name"]: each["version"] for each in shown} == {"stepper": "1", "sentiment": "1"}

    (models / "stepper" / "serve.json").unlink()
    reload(server, until="models reloaded")
    second = step(server)
    assert (second["version"], step(server, state=first["state"])["version"]) == ("2", "1")

    choose(models, {"version": "1"})  # rolled back: what the newer version began, it goes on with
    reload(server, until="stepper 1 answers new work")
    assert (step(server)["version"], step(server, state=second["state"])["version"]) == ("1", "2")
    server.stop()


def name_a_version_that_is_not_there(models: Path) -> str:
    choose(models, {"version": "3"})
    return "stepper/serve.json: version: is '3', but the versions are 1"


def name_a_number(models: Path) -> str:
    choose(models, {"version": 1})
    return "stepper/serve.json: version: Input should be a valid string"


def misspell_the_member(models: Path) -> str:
    choose(models, {"version": "1", "versions": "1"})
    return "stepper/serve.json: versions: Extra inputs are not permitted"


def write_no_json(models: Path) -> str:
    (models / "stepper" / "serve.json").write_text("1")
    return "stepper/serve.json: file: Input should be an object"


def make_a_folder_of_it(models: Path) -> str:
    (models / "stepper" / "serve.json").mkdir()
    return "stepper/serve.json: file: cannot be read: Is a directory"


@pytest.mark.parametrize(
    "spoil",
    [
        *(name_a_version_that_is_not_there, name_a_number, misspell_the_member, write_no_json),
        make_a_folder_of_it,
    ],
)
def test_a_file_that_names_no_version_ends_the_start_with_what_would_be_right(
    spoil: Callable[[Path], str], models: Path, tmp_path: Path
) -> None:
    says = spoil(models)
    ended = baton("serve", BATON_MODELS_DIR=str(models), BATON_STATE_DIR=str(tmp_path), BATON_PORT="0")
    assert ended.returncode == 1
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("baton: "))
    assert says in line


def test_a_reload_and_an_order_that_find_such_a_file_change_nothing(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    choose(models, {"version": "1"})
    server = start_server(models, tmp_path / "state", BATON_API_KEYS=ADMIN.setting)
    tiny.stepper(models, seed=2, version="2")
    choose(models, {"version": "4"})
    assert "is '4', but the versions are 1, 2" in reload(server, until="not reloaded")
    refused = server.client.post("/v2/repository/models/stepper/load", headers=ADMIN_HEADER)
    assert (refused.status_code, "is '4', but the versions are 1, 2" in refused.json()["error"]) == (400, True)
    assert step(server)["version"] == "1"
    choose(models, {"version": "1"})
    assert server.client.post("/v2/repository/models/stepper/load", headers=ADMIN_HEADER).status_code == 200
    assert step(server)["version"] == "1"
    (models / "stepper" / "serve.json").unlink()
    assert server.client.post("/v2/repository/models/sentiment/load", headers=ADMIN_HEADER).status_code == 200
    assert step(server)["version"] == "1", "another model is not looked at"
    assert server.client.post("/v2/repository/models/stepper/load", headers=ADMIN_HEADER).status_code == 200
    assert step(server)["version"] == "2"
    server.stop()
