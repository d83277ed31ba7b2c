"""What `--help` shows runs, and shells complete it."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tiny
import wav
from conftest import ROOT, Server

from service.cli import keys
from service.cli.command import app
from service.launch import launch

EXAMPLE_URL = "http://127.0.0.1:8000"
COMMANDS: dict[str, Callable[..., object]] = {
    command.callback.__name__: command.callback
    for command in (*app.registered_commands, *keys.app.registered_commands)
    if command.callback is not None and command.add_help_option  # what passes --help on shows another program's
}


def examples(command: str) -> list[str]:
    text = inspect.getdoc(COMMANDS[command]) or ""
    return [line.strip() for line in text.partition("\b\n")[2].splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that has the files of the examples, the committed models, and a `baton` on the path."""
    (tmp_path / "models").mkdir()
    for model in (ROOT / "models").iterdir():
        (tmp_path / "models" / model.name).symlink_to(model)
    (tmp_path / "signal.csv").write_text("s,mv\n" + "".join(f"{n / 100},{n % 7}\n" for n in range(30)))
    (tmp_path / "recording.csv").write_text("sample\n" + "".join(f"{n % 3}\n" for n in range(40)))
    (tmp_path / "seven.wav").write_bytes(wav.write(0.5 * np.sin(np.arange(400) / 3), 8000))
    (tmp_path / "reviews.csv").write_text("id,text\n1,a good film\n2,a bad one\n")
    (tmp_path / "reviews.txt").write_text("a good film\na bad one\n")
    (tmp_path / "series.txt").write_text("3 1 4 1 5 9 2 6\n2 7 1 8 2 8 1 8\n")
    (tmp_path / "requests.jsonl").write_text('{"inputs": ["a good film", "a bad one"]}\n')
    (tmp_path / "log").write_text("".join(f"{10 + place % 3}\n" for place in range(40)) + "99\n")
    months = [f"{2020 + place // 12}-{place % 12 + 1:02}-01" for place in range(30)]
    (tmp_path / "sales.csv").write_text("date,y\n" + "".join(f"{month},{n % 12}\n" for n, month in enumerate(months)))
    rows = [f"{month},{store},{n % 12}\n" for store in ("north", "south") for n, month in enumerate(months)]
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "sales.csv").write_text("date,store,y\n" + "".join(rows))
    for name in ("sensors", "messages"):
        (tmp_path / name).mkdir()
    (tmp_path / "sensors" / "a.csv").write_text("sensor,reading\n" + "".join(f"a,{n % 5}\n" for n in range(20)))
    (tmp_path / "messages" / "a.jsonl").write_text('{"text": "WIN a prize"}\n{"text": "See you"}\n')
    reviews = {"id": [1, 2], "text": ["a good film", "a bad one"]}
    pyarrow.parquet.write_table(pyarrow.table(reviews), tmp_path / "reviews.parquet")
    (tiny.stepper(tmp_path / "tiny") / "model.onnx").rename(tmp_path / "model.onnx")
    script = tmp_path / "bin" / "baton"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m service "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BATON_MODELS_DIR": str(folder / "models"),
        "BATON_STATE_DIR": str(folder / "state"),
    }
    return subprocess.run(
        ["bash", "-ec", line],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **own, **environment},
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_every_command_has_examples() -> None:
    assert len(COMMANDS) >= 9
    assert all(len(examples(command)) >= 2 for command in COMMANDS)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"serve"}))
def test_the_examples_of_a_command_run(command: str, folder: Path, command_server: Server) -> None:
    for example in examples(command):
        place = folder / "stores" if "store" in example else folder
        line = example.replace(EXAMPLE_URL, command_server.url)
        line = line.replace("/var/lib/baton", str(folder / "state"))  # which is root's
        line = line.replace("tail -f", "cat").replace(" --follow", "")  # which would wait for more
        ended = shell(f"cd {place}; {line}", folder)
        assert ended.returncode == 0, f"{example}: {ended.stderr}"
        written = re.search(r"(?:--output|>) (\S+)", example)
        assert (place / written[1]).exists() if written else ended.stdout or ended.stderr, example


@pytest.mark.parametrize("example", examples("serve"))
def test_the_examples_of_serving_serve(example: str, tmp_path: Path, tiny_models: Path) -> None:
    name, *arguments = shlex.split(example)
    assert name == "baton"
    arguments = ["0" if word == "8080" else word for word in arguments]  # a port that nobody has
    environment = {"BATON_MODELS_DIR": str(tiny_models), "BATON_STATE_DIR": str(tmp_path)}
    if "--port" not in arguments:
        environment["BATON_PORT"] = "0"
    process, _ = launch(tmp_path / "log", environment, [sys.executable, "-m", "service", *arguments])
    process.terminate()
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("words", "place", "completed"),
    [
        ("baton s", 1, {"score", "sentiment", "serve", "step", "stream"}),
        ("baton keys ", 2, {"api", "list", "new"}),
        ("baton step forecast", 2, {"forecast-live"}),
        ("baton forecast --model ", 3, {"forecast", "segrnn"}),
        ("baton translate --model ", 3, {"translate"}),
        ("baton score fore", 2, {"forecast", "forecast-live"}),
    ],
)
def test_bash_completes_commands_and_models(words: str, place: int, completed: set[str], folder: Path) -> None:
    asked = {"_BATON_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    assert set(shell("baton", folder, **asked).stdout.split()) == completed


def test_completion_is_installed_for_bash_on_demand(folder: Path) -> None:
    ended = shell("baton --show-completion; exit", folder)  # in a shell that stays, which is looked for
    assert "complete -o default -F _baton_completion baton" in ended.stdout
