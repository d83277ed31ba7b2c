"""The examples of docs/client.md, run in their order against the committed models: they print what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, ServerFactory

import baton_client

EXAMPLES = re.findall(
    r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", (ROOT / "docs" / "client.md").read_text(), re.DOTALL
)
NUMBER = re.compile(r"\d+\.\d+|\d+")
CLOSE = 0.02  # processors round differently; the page shows one to three digits


def test_the_page_s_examples_print_what_it_shows(tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(ROOT / "models", tmp_path)
    assert server.url is not None
    assert len(EXAMPLES) == 8
    script = "".join(code for code, _ in EXAMPLES).replace("http://localhost:8000", server.url)
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    shown = "".join(printed for _, printed in EXAMPLES)
    assert NUMBER.sub("#", run.stdout) == NUMBER.sub("#", shown)
    assert [*map(float, NUMBER.findall(run.stdout))] == pytest.approx(
        [*map(float, NUMBER.findall(shown))], abs=CLOSE, rel=1e-3
    )
    server.stop()


def test_the_page_names_every_public_class() -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    assert not [name for name in baton_client.__all__ if name not in page]
