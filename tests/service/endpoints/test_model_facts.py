"""GET /v1/models and /v1/models/{name}: which calls take a model, and what it is given there."""

from __future__ import annotations

import pytest
from conftest import Server
from tiny_sequences import ALPHABET, SAMPLE_RATE, WIDTH


@pytest.mark.parametrize(
    ("model", "answers"),
    [
        ("sentiment", ["sentiment", "classify"]),
        ("stepper", ["step"]),
        ("tagger", ["tag"]),
        ("tagger-live", ["tag", "step"]),
        ("cleaner", ["transform"]),
        ("cleaner-live", ["transform", "step"]),
        ("listener-live", ["classify", "step"]),
    ],
)
def test_a_model_says_which_calls_take_it(sequence_server: Server, model: str, answers: list[str]) -> None:
    lines = {line["name"]: line for line in sequence_server.client.get("/v1/models").json()["models"]}
    facts = sequence_server.client.get(f"/v1/models/{model}").json()
    assert lines[model]["answers"] == facts["answers"] == answers
    assert facts["task"] == answers[0]
    assert (facts["token_chars"] is not None) == facts["streamable"] == ("step" in answers)


def test_signals_and_characters_are_shown_where_they_are_declared(sequence_server: Server) -> None:
    facts = {
        model: sequence_server.client.get(f"/v1/models/{model}").json() for model in ("cleaner", "tagger", "stepper")
    }
    assert facts["cleaner"]["signal"] == {"sample_rate": SAMPLE_RATE}
    assert facts["tagger"]["text"]["characters"] == {"alphabet": ALPHABET, "width": WIDTH}
    assert [facts["stepper"][member] for member in ("text", "signal", "feedback")] == [None] * 3
