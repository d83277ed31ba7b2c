"""`make sbom` in a copy of the project: the bill has what the image installs, and nothing of the machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from locks import applies, locked
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "deploy" / "locks", project / "deploy" / "locks")
    environment = f"VENV={sys.prefix}"  # these tests run in it, so it has what making the bill needs
    subprocess.run(["make", environment, "-o", f"{sys.prefix}/.development", "sbom"], cwd=project, check=True)
    return project / "sbom.json"


def test_the_bill_keeps_to_the_schema_of_cyclonedx(bill: Path) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.read_text()) is None


def test_the_bill_has_every_distribution_of_the_serving_environment(bill: Path) -> None:
    components = json.loads(bill.read_text())["components"]
    found = {canonicalize_name(component["name"]): component["version"] for component in components}
    entries = [entry for entry, _ in locked("serving") if applies(entry)]
    assert found == {entry.name: str(entry.specifier).removeprefix("==") for entry in entries}


def test_the_bill_says_what_the_service_depends_on(bill: Path) -> None:
    depends = {one["ref"]: one.get("dependsOn", []) for one in json.loads(bill.read_text())["dependencies"]}
    direct = {reference.split("==")[0] for reference in depends["root-component"]}
    assert {"fastapi", "onnxruntime", "cryptography", "redis"} < direct


def test_the_bill_names_no_place_of_this_machine(bill: Path) -> None:
    text = bill.read_text()
    assert not [place for place in ("file:", str(bill.parent), str(ROOT), sys.prefix) if place in text]
