"""`baton new`: what it makes works as its README says, from the data to the answer of a served model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import ServerFactory, baton
from shell import shell

from training.publish.source import read_source


def made(folder: Path, name: str) -> Path:
    shell(f"baton new {name}", folder)
    return folder / name


def test_the_commands_of_its_readme_lead_to_an_answer_of_the_model(tmp_path: Path, start_server: ServerFactory) -> None:
    project = made(tmp_path, "weather-live")
    readme = (project / "README.md").read_text()
    (block,) = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    train, export, serve, call = block.splitlines()
    assert serve.split("#")[0].split() == ["baton", "serve"]  # in the project's folder, whose models/ it serves
    printed = shell(train, project).stdout
    error, floor = map(float, re.findall(r"\d\.\d+", printed))
    assert error < 0.7 * floor
    assert "published models/weather-live/1, parity" in shell(export, project).stdout
    server = start_server(project / "models", tmp_path / "state")
    answered = json.loads(shell(call.replace("localhost:8000", server.url.removeprefix("http://")), project).stdout)
    (result,) = answered["results"]
    module = read_source(f"{project / 'model.py'}:build")["module"]
    sent = json.loads(re.findall(r"'(.*)'", call)[0])["items"][0]["inputs"]
    with torch.no_grad():
        foreseen, _ = module(torch.tensor([sent]), torch.zeros(1, 1, 32))
    assert result["outputs"]["forecast"] == pytest.approx(foreseen[0, -1].tolist(), abs=1e-4)
    (after,) = server.post(
        "/v1/step", {"model": "weather-live", "items": [{"inputs": [[16.5, 63.0]], "state": result["state"]}]}
    ).json()["results"]
    assert after["step"] == len(sent) + 1
    facts = server.client.get("/v1/models/weather-live").json()
    assert facts["outputs"][0]["labels"] == ["temperature", "humidity"]
    server.stop()


def test_its_readme_is_short_and_its_recipe_holds_all_that_its_model_reads(tmp_path: Path) -> None:
    project = made(tmp_path, "demo")
    assert sorted(path.name for path in project.iterdir()) == [
        "README.md",
        "data.csv",
        "model.py",
        "models",
        "recipe.toml",
    ]
    assert "$" not in "".join(file.read_text() for file in project.glob("*.*"))
    used = set(re.findall(r'RECIPE\["(\w+)"\]', (project / "model.py").read_text()))
    assert used == set(re.findall(r"^(\w+) =", (project / "recipe.toml").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Weather", r"the name 'Weather' must match [a-z0-9][a-z0-9_-]{0,63}, as in weather-live"),
        ("../up", r"the name '../up' must match [a-z0-9][a-z0-9_-]{0,63}, as in weather-live"),
        ("tests", "tests is there already; give another name, or remove it"),
    ],
)
def test_a_name_that_will_not_do_is_refused(name: str, reason: str) -> None:
    ended = baton("new", name)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"baton: {reason}\n")
