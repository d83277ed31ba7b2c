"""Data files: found by name, always verified; an error says what would be right."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pooch
import pytest

from training import datasets
from training.datasets import DataError, PublicFile, find

CONTENT = b"label\tsentence\n"
NAME = "made/up.tsv"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> PublicFile:
    """One made-up file beside the real ones, and no data folder."""
    monkeypatch.delenv(datasets.VARIABLE, raising=False)
    file = PublicFile(hashlib.sha256(CONTENT).hexdigest(), "made up for this test")
    monkeypatch.setitem(datasets.FILES, NAME, file)
    return file


def place(folder: Path, content: bytes) -> Path:
    path = folder / NAME
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_file_is_found_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: PublicFile) -> None:
    """The folder in BATON_DATA_DIR comes first, and the hash goes to the manifest."""
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    path = place(tmp_path, CONTENT)
    found = find(NAME)
    assert (found.path, found.sha256) == (path, known.sha256)
    source = found.used_as("trained on")
    assert (source.name, source.sha256, source.part) == (NAME, known.sha256, "trained on")


def test_file_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: PublicFile) -> None:
    """Figures are comparable on the same bytes only; both hashes are shown."""
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    place(tmp_path, b"something else")
    with pytest.raises(DataError, match=rf"has sha256 [0-9a-f]{{64}}, not {known.sha256}"):
        find(NAME)


def test_folder_without_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was asked for is not silently replaced by a download."""
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=f"holds no {NAME}"):
        find(NAME)


def test_file_without_an_address_says_what_to_do(known: PublicFile) -> None:
    """Where no public file has these bytes, the message names variable, file and hash."""
    with pytest.raises(DataError, match=rf"set BATON_DATA_DIR .* holds {NAME} with sha256 {known.sha256}"):
        find(NAME)


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, known: PublicFile) -> None:
    """Without a network the address is named, and the way round it."""
    monkeypatch.setitem(datasets.FILES, NAME, PublicFile(known.sha256, "nowhere", "https://data.invalid/up.tsv"))

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(DataError, match=r"https://data\.invalid/up\.tsv .*no route to host.*set BATON_DATA_DIR"):
        find(NAME)


def test_downloaded_file_is_verified_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: PublicFile) -> None:
    """What the cache holds is checked like any other file."""
    monkeypatch.setitem(datasets.FILES, NAME, PublicFile(known.sha256, "here", "https://data.invalid/up.tsv"))
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: str(place(tmp_path, b"changed since")))
    with pytest.raises(DataError, match="the figures were made with another file"):
        find(NAME)


def test_unknown_name_is_refused_with_those_that_exist() -> None:
    """A misspelt name shows the known ones."""
    with pytest.raises(DataError, match=r"'sst/train\.tsv'; known are sst2/train\.tsv"):
        find("sst/train.tsv")
