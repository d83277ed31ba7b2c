"""What the simulated users send where there is no real data."""

from __future__ import annotations

import random

import pytest

from loadtests.contents import Payloads, load_payloads
from training.datasets import VARIABLE


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Payloads:
    monkeypatch.delenv(VARIABLE, raising=False)
    return load_payloads()


def test_generated_payloads_are_the_same_every_time(generated: Payloads) -> None:
    assert generated == load_payloads()
    assert generated.texts(random.Random(3)) == generated.texts(random.Random(3))
    assert generated.histories(random.Random(3)) == generated.histories(random.Random(3))


def test_payloads_are_of_mixed_length_and_number(generated: Payloads) -> None:
    rng = random.Random(0)
    texts = [generated.texts(rng) for _ in range(200)]
    histories = [generated.histories(rng) for _ in range(200)]
    assert {len(batch) for batch in texts} == {len(batch) for batch in histories} == set(range(1, 9))
    words = [len(text.split()) for batch in texts for text in batch]
    assert min(words) <= 5
    assert max(words) >= 60
    lengths = sorted(len(values) for batch in histories for values in batch)
    assert (lengths[0], lengths[-1]) == (16, pytest.approx(512, rel=0.05))
    assert lengths[len(lengths) // 2] < 150
