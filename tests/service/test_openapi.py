"""The OpenAPI document against the running service: generated requests, valid and not, get only declared answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import Server


def test_every_generated_request_gets_a_declared_answer(server: Server, tmp_path: Path) -> None:
    """Requests that fit the schema may still name an unknown model or a horizon that is too long, so 4xx may come."""
    schemathesis = shutil.which("schemathesis", path=Path(sys.executable).parent)
    assert schemathesis is not None
    options = ["--max-examples", "20", "--generation-deterministic", "--exclude-checks", "positive_data_acceptance"]
    command = [schemathesis, "run", f"{server.url}/openapi.json", *options, "--no-color"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "9 selected / 9 total" in ended.stdout
    assert not [line for line in server.lines if "Traceback" in line]
