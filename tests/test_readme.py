"""The README's stream, pasted into a shell around a crash of the service; and its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, ServerFactory
from shell import assert_same, shell

pytestmark = pytest.mark.old_cpu

MODELS = ROOT / "models"
README = (ROOT / "README.md").read_text()
CALLS = re.findall(r"```bash\n(curl .*?)```\n```json\n(.*?)```", README, flags=re.DOTALL)


def test_the_stream_of_the_first_screen_goes_on_after_the_server_was_killed(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    assert len(CALLS) == 2
    command, printed = CALLS[-1]
    first, *rest = command.splitlines()
    server = start_server(MODELS, tmp_path / "state")
    shell(first.replace("localhost:8000", server.url.removeprefix("http://")), tmp_path)
    server.kill()
    server.start()
    answered = shell("\n".join(rest).replace("localhost:8000", server.url.removeprefix("http://")), tmp_path).stdout
    assert_same(json.loads(answered), json.loads(printed))
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
