"""What fuzzing found worth keeping, and what it began with: each input is read, or refused as documented."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(file for file in CORPUS.rglob("*") if file.is_file())


def test_every_target_has_a_corpus_and_nothing_else_has() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_in_the_corpus_is_read_or_refused_by_every_target(target: str) -> None:
    for file in INPUTS:
        with suppress(*TARGETS[target].errors):
            TARGETS[target].read(file.read_bytes())
