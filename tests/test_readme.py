"""The README's first screen, pasted into a shell against the committed models: its answers are the ones it prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Server, ServerFactory

pytestmark = pytest.mark.old_cpu

MODELS = ROOT / "models"
# How rows share runs depends on what runs cost when the model was warmed.
VOLATILE = {"timing_ms", "state", "expires_at", "padded_steps", "batch_rows"}
README = (ROOT / "README.md").read_text()
CALLS = re.findall(r"```bash\n(curl .*?)```\n```json\n(.*?)```", README, flags=re.DOTALL)
SCRIPTS = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", README, flags=re.DOTALL)
CLOSE = 1e-4  # processors round differently; the README shows this many digits


def paste(server: Server, lines: list[str], folder: Path) -> str:
    """Run shell lines as they stand, but for the port."""
    assert server.url is not None
    script = "\n".join(lines).replace("localhost:8000", server.url.removeprefix("http://"))
    return subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=True).stdout


def assert_same(found: Any, printed: Any, where: str = "answer") -> None:
    if isinstance(printed, dict):
        assert found.keys() == printed.keys(), where
        for name in printed.keys() - VOLATILE:
            assert_same(found[name], printed[name], f"{where}.{name}")
    elif isinstance(printed, list):
        assert len(found) == len(printed), where
        for index, (one, other) in enumerate(zip(found, printed, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    else:
        assert found == (pytest.approx(printed, abs=CLOSE, rel=CLOSE) if isinstance(printed, float) else printed), where


@pytest.mark.parametrize(("command", "printed"), CALLS[:2], ids=["sentiment", "forecast"])
def test_a_curl_of_the_first_screen_answers_what_it_prints(
    command: str, printed: str, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(MODELS, tmp_path / "state")
    assert_same(json.loads(paste(server, command.splitlines(), tmp_path)), json.loads(printed))
    server.stop()


def test_the_stream_of_the_first_screen_goes_on_after_the_server_was_killed(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    assert len(CALLS) == 3
    command, printed = CALLS[2]
    first, *rest = command.splitlines()
    server = start_server(MODELS, tmp_path / "state")
    paste(server, [first], tmp_path)
    server.kill()
    server.start()
    assert_same(json.loads(paste(server, rest, tmp_path)), json.loads(printed))
    server.stop()


@pytest.mark.parametrize(("script", "shown"), SCRIPTS, ids=["stream", "sequence"])
def test_what_runs_in_python_prints_what_the_page_shows(
    script: str, shown: str, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(MODELS, tmp_path / "state")
    command = [sys.executable, "-c", script.replace("localhost:8000", server.url.removeprefix("http://"))]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == shown
    server.stop()


def test_the_figures_of_the_models_are_those_of_their_manifests() -> None:
    rows = re.findall(
        r"^\| \[`(.*?)`\]\((models/.*?)/card\.md\) .*?(\w+) \*\*(.*?)\*\*, floor (\S+)", README, re.MULTILINE
    )
    assert {name for name, *_ in rows} == {path.name for path in MODELS.iterdir()}
    for _, directory, figure, value, floor in rows:
        provenance = json.loads((ROOT / directory / "manifest.json").read_text())["provenance"]
        (metric,) = [metric for metric in provenance["metrics"] if metric["name"] == figure]
        assert (value, floor) == (f"{metric['value']:.3f}", f"{metric['floor']:.3f}")
