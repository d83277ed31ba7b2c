"""docker-compose.yml without an engine: it keeps to the schema, and to what is said of every service."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from jsonschema_rs import Draft7Validator
from pods import time_to_drain_s

from service.settings import Settings

FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]


def test_the_file_keeps_to_the_schema_of_compose(schemas_dir: Path) -> None:
    schema = json.loads((schemas_dir / "compose-spec.json").read_text())
    errors = Draft7Validator(schema).iter_errors(yaml.safe_load(FILE.read_text()))
    assert not [f"{list(error.instance_path)}: {error.message}" for error in errors]


def test_docker_compose_reads_the_file() -> None:
    command = shutil.which("docker-compose")
    if command is None:
        pytest.skip("no docker-compose; install Debian's docker-compose")
    read = subprocess.run([command, "-f", FILE, "config", "-q"], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_no_rights_and_is_seen_on_loopback_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_the_files_that_a_service_mounts_are_there(name: str) -> None:
    mounted = [volume.split(":") for volume in SERVICES[name].get("volumes", ()) if volume.startswith(".")]
    assert [source for source, *_ in mounted if not (ROOT / source).exists()] == []
    assert {how for *_, how in mounted} <= {"ro"}


def test_a_replica_has_time_to_drain() -> None:
    grace_s = int(SERVICES["baton"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= time_to_drain_s(Settings())
    assert f"docker stop -t {grace_s} " in (ROOT / "deploy" / "rollout.sh").read_text()
