"""The OpenAPI document against the running service: generated requests, valid and not, get only declared answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tiny
import tiny_conditions
import tiny_writers
from conftest import Server, ServerFactory
from keyring import Keyring

from service.app import create_app
from service.settings import Settings

CASES = os.environ.get("SCHEMATHESIS_CASES", "10")
REFUSALS = (400, 401, 404, 405, 408, 409, 410, 413, 415, 422, 429)


def test_every_generated_request_gets_a_declared_answer(start_server: ServerFactory, tmp_path: Path) -> None:
    """Requests that fit the schema may still name an unknown model or a horizon that is too long, so 4xx may come;

    one whose `timeout_ms` is a millisecond may be late, so 504 may. A 500 may not.
    """
    models = tiny_conditions.all_conditioned(tiny_writers.all_writers(tiny.all_models(tmp_path / "models")))
    server = start_server(models, tmp_path / "state", BATON_MAX_STEPS="16")
    schemathesis = shutil.which("schemathesis", path=Path(sys.executable).parent)
    assert schemathesis is not None
    names = sorted(model.name for model in models.iterdir())
    (tmp_path / "schemathesis.toml").write_text(
        f"[checks]\nnegative_data_rejection.expected-statuses = {list(REFUSALS)}\n"
        f"not_a_server_error.expected-statuses = ['2xx', '3xx', '4xx', '504']\n"
        f"[dictionaries]\nmodels.values = {names}\nversions.values = ['1', '2']\n"
        f"[parameters]\n'path.name' = {{ dictionary = 'models', probability = 0.8 }}\n"
        f"'path.version' = {{ dictionary = 'versions', probability = 0.8 }}\n"
        # What it learns from thousands of answers about models costs a second a case, and is the names above.
        f"[[operations]]\ninclude-path-regex = '/models/'\nphases.fuzzing.extra-data-sources.responses = false\n"
    )
    options = ["--max-examples", CASES, "--generation-deterministic", "--exclude-checks", "positive_data_acceptance"]
    command = [schemathesis, "run", f"{server.url}/openapi.json", *options, "--no-color"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "35 selected / 35 total" in ended.stdout
    assert not [line for line in server.lines if "Traceback" in line]


def test_the_document_asks_for_a_key_where_the_service_does(tiny_models: Path, tmp_path: Path) -> None:
    settings = {"models_dir": tiny_models, "state_dir": tmp_path, "store": "memory"}
    open_document = create_app(Settings(**settings)).openapi()
    keyed_document = create_app(Settings(**settings, api_keys=Keyring("acme").entries)).openapi()
    for path, operations in keyed_document["paths"].items():
        (operation,) = operations.values()
        open_to_all = path in ("/healthz", "/readyz", "/metrics") or path.startswith("/v2/health/")
        assert ("security" in operation) != open_to_all
        assert "security" not in next(iter(open_document["paths"][path].values()))


def test_the_document_leads_to_the_page_where_that_is(tiny_models: Path, tmp_path: Path) -> None:
    for page in (True, False):
        settings = Settings(models_dir=tiny_models, state_dir=tmp_path, store="memory", page=page)
        assert ("](/)" in create_app(settings).openapi()["info"]["description"]) is page


def test_the_document_declares_what_a_state_can_be_refused_with(server: Server) -> None:
    step = server.client.get("/openapi.json").json()["paths"]["/v1/step"]["post"]
    assert {"409", "410", "422"} <= step["responses"].keys()
