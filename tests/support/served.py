"""Services that tests share, each over tiny models of one kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datatypes
import pytest
import tiny
import tiny_conditions
import tiny_pens
import tiny_sequences
import tiny_writers
from conftest import ADMIN, TOKEN_KEYS, Server


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.all_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over the tiny models, shared by tests that leave nothing behind."""
    running = Server(tiny_models, tmp_path_factory.mktemp("state"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def sequence_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, and those that give something for each step or label sequences of any kind."""
    return tiny_sequences.all_sequences(tiny.all_models(tmp_path_factory.mktemp("sequence-models")))


@pytest.fixture(scope="session")
def sequence_server(sequence_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over them, shared by tests that leave nothing behind."""
    running = Server(sequence_models, tmp_path_factory.mktemp("sequence-state"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def oip_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, and one for each datatype."""
    return datatypes.all_echoes(tiny.all_models(tmp_path_factory.mktemp("oip-models")))


@pytest.fixture(scope="session")
def oip_server(oip_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over them with an admin key, shared by tests that leave it as it was."""
    running = Server(oip_models, tmp_path_factory.mktemp("oip-state"), BATON_API_KEYS=ADMIN.setting)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def writer_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models that generate."""
    return tiny_writers.all_writers(tmp_path_factory.mktemp("writer-models"))


@pytest.fixture(scope="session")
def writers(writer_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over them, shared by tests that leave nothing behind."""
    running = Server(writer_models, tmp_path_factory.mktemp("writer-state"), BATON_TOKEN_KEYS=TOKEN_KEYS)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def conditioned_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models whose sessions begin from a condition, and some whose do not."""
    root = tiny_conditions.all_conditioned(tmp_path_factory.mktemp("conditioned-models"))
    tiny_writers.generator(root)
    return root


@pytest.fixture(scope="session")
def conditioned(conditioned_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over them, shared by tests that leave nothing behind."""
    running = Server(conditioned_models, tmp_path_factory.mktemp("conditioned-state"), BATON_TOKEN_KEYS=TOKEN_KEYS)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def pen_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models that write points of a pen, and one that writes text."""
    root = tiny_pens.all_pens(tmp_path_factory.mktemp("pen-models"))
    tiny_writers.generator(root)
    return root


@pytest.fixture(scope="session")
def pens(pen_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over them, shared by tests that leave nothing behind."""
    running = Server(pen_models, tmp_path_factory.mktemp("pen-state"), BATON_TOKEN_KEYS=TOKEN_KEYS)
    yield running
    running.stop()
