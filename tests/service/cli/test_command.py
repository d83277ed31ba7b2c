"""The `baton` command as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from conftest import Server, baton

from service import __version__


def test_help_names_every_command_and_option() -> None:
    commands = ("serve", "score", "models", "inspect", "export", "bench", "new", "keys", "--version")
    assert all(word in baton("--help").stdout for word in commands)
    serve = baton("serve", "--help").stdout
    options = ("--host", "--port", "--models-dir", "--device", "--workers")
    assert all(word in serve for word in (*options, "BATON_PORT", "docs/settings.md"))
    assert all(word in baton("models", "--help").stdout for word in ("--json", "--api-key", "URL"))
    assert baton("--version").stdout == f"baton {__version__}\n"


def test_models_shows_the_same_from_a_directory_and_from_a_server(server: Server, tiny_models: Path) -> None:
    directory, running = baton("models", str(tiny_models)), baton("models", server.url or "")
    assert directory.stdout == running.stdout
    assert [line.split()[:4] for line in directory.stdout.splitlines()][:2] == [
        ["name", "version", "task", "streamable"],
        ["forecast", "1", "forecast", "no"],
    ]
    lines = json.loads(baton("models", "--json", str(tiny_models)).stdout)["models"]
    assert {line["name"] for line in lines} == {"forecast", "numbers", "reader", "sentiment", "stepper"}


def test_models_verifies_what_it_shows(tmp_path: Path) -> None:
    (tiny.stepper(tmp_path) / "model.onnx").write_bytes(b"changed")
    ended = baton("models", str(tmp_path))
    assert ended.returncode == 1
    assert "sha256" in ended.stderr


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    ended = baton("models", "http://127.0.0.1:9")
    assert ended.returncode == 1
    assert ended.stderr.startswith("baton: http://127.0.0.1:9 does not answer as a Baton service")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"BATON_PROT": "80"}, "BATON_PROT is no setting; did you mean BATON_PORT?"),
        ({"BATON_ZEBRA": "1"}, "BATON_ZEBRA is no setting; known: BATON_HOST"),
        ({"BATON_PORT": "eighty"}, "BATON_PORT: Input should be a valid integer"),
        ({"BATON_PORT": "70000"}, "BATON_PORT: Input should be less than or equal to 65535"),
        ({"BATON_DEVICE": "tpu"}, "BATON_DEVICE: Input should be 'auto', 'cpu' or 'cuda'"),
        ({"BATON_MAX_ITEMS": "5000"}, "max_items 5000 is above queue_rows 2048"),
        ({"BATON_TOKEN_KEYS": '["short"]', "BATON_MODELS_DIR": "{models}"}, "token key 1 of 1"),
        ({"BATON_TOKEN_KEYS": "not json"}, "token_keys"),
        ({"BATON_DEVICE": "cuda", "BATON_MODELS_DIR": "{models}"}, "this ONNX Runtime has"),
        ({"BATON_API_KEYS": '{"acme": "long-enough"}'}, "BATON_API_KEYS: Input should be a valid tuple"),
        (
            {"BATON_API_KEYS": '[{"tenant": "acme"}]', "BATON_HOST": "::"},
            "BATON_API_KEYS: 0.id: Field required; entries are made by `baton keys api new`",
        ),
        ({"BATON_API_KEYS_FILE": "/nowhere/keys.json", "BATON_HOST": "::"}, "/nowhere/keys.json cannot be read"),
        ({"BATON_HOST": "::"}, "can be reached by others, and no tenant has an API key: make one by `baton keys"),
        ({"BATON_CORS_ORIGINS": '["app.example.com"]'}, "'app.example.com' is no origin, which is as https://"),
        ({"BATON_RATE_LIMIT": "often"}, "'often' is no rate; it is as \"100/second\""),
        ({"BATON_RATE_LIMIT": "0/second"}, "'0/second' is no rate"),
        (
            {"BATON_MAX_STATE_BYTES": "8", "BATON_STORE": "memory", "BATON_MODELS_DIR": "{models}"},
            "at most 8: see BATON_MAX_STATE_BYTES and BATON_STORE",
        ),
        ({"BATON_STORE": "disk"}, "BATON_STORE: Value error, must be 'embedded', 'memory', or a URL"),
        ({"BATON_MODELS_DIR": "/nowhere"}, "/nowhere: models_dir: is no directory"),
    ],
)
def test_a_setting_that_will_not_do_ends_start_up_with_one_line(
    environment: dict[str, str], says: str, tiny_models: Path, tmp_path: Path
) -> None:
    filled = {name: value.replace("{models}", str(tiny_models)) for name, value in environment.items()}
    ended = baton("serve", **{"BATON_PORT": "0", "BATON_STATE_DIR": str(tmp_path), **filled})
    assert ended.returncode == 1
    assert says in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_the_data_directory_of_training_is_no_unknown_setting(tmp_path: Path) -> None:
    ended = baton("serve", BATON_DATA_DIR="/anywhere", BATON_MODELS_DIR=str(tmp_path), BATON_PORT="0")
    assert "holds no" in ended.stderr
