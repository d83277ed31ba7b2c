"""What the image installs is tied down by hashes: all that serving needs, at the versions of constraints.txt."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import requires

import pytest
from conftest import ROOT
from locks import LOCKS, applies, locked
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
VERSIONS = {canonicalize_name(name): version for name, version in CONSTRAINTS.items()}


def needed(wanted: Iterable[str]) -> set[str]:
    """Return the names of what `wanted` needs here, by what the installed packages say of themselves."""
    waiting, seen = list(map(Requirement, wanted)), set()
    while waiting:
        one = waiting.pop()
        for extra in {"", *one.extras} - {extra for name, extra in seen if name == one.name}:
            seen.add((one.name, extra))
            waiting += [further for further in map(Requirement, requires(one.name) or ()) if applies(further, extra)]
    return {canonicalize_name(name) for name, _ in seen}


@pytest.mark.parametrize("name", [file.stem for file in LOCKS.iterdir()])
def test_every_entry_of_a_lock_has_hashes_and_the_version_of_the_constraints(name: str) -> None:
    for entry, hashes in locked(name):
        assert str(entry.specifier) == f"=={VERSIONS[canonicalize_name(entry.name)]}", entry
        assert hashes, entry
        assert all(one.startswith("sha256:") for one in hashes), entry


def test_the_locks_name_no_host() -> None:
    assert not [file for file in LOCKS.iterdir() if "://" in file.read_text() or "index" in file.read_text()]


def test_the_lock_of_serving_holds_what_the_project_says_that_the_image_needs() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["redis"], *extras["otel"]]
    here = {canonicalize_name(entry.name) for entry, _ in locked("serving") if applies(entry)}
    assert here == needed(wanted)


def test_the_other_locks_hold_the_builds_for_cuda_and_what_builds_the_package() -> None:
    wanted = {"cuda": PROJECT["project"]["optional-dependencies"]["gpu"], "build": PROJECT["build-system"]["requires"]}
    for name, declared in wanted.items():
        (entry, _), (asked,) = *locked(name), [Requirement(one) for one in declared]
        assert entry.name == asked.name
        assert asked.specifier.contains(VERSIONS[entry.name])


def test_the_image_installs_from_its_locks_alone() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = [one for line in text.splitlines() for one in line.split("&&") if " install " in one and "pip" in one]
    fetching = [one for one in installs if "apt-get" not in one and "./*.whl" not in one]
    assert len(fetching) == len(list(LOCKS.iterdir()))
    assert all("--require-hashes" in one for one in fetching)
