"""The steps of a session in JSON by themselves: the member that suits the model, limits, and what is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from here import load_here

from service.endpoints.stateful.step_json import StepInput, read_row, show_carried, show_step
from service.engine.engine import Engine
from service.engine.rows import Answer
from service.errors import EmptyInput, InvalidRequest, ItemTooLarge, RaggedInputs, RequestError
from service.settings import Settings
from service.state.sessions import Carried, Point

SETTINGS = Settings(max_steps=4, max_session_steps=10, max_text_chars=12)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    root = tmp_path_factory.mktemp("models")
    for build in (tiny.stepper, tiny.number_stepper, tiny.reader):
        build(root)
    return {engine.manifest.name: engine for engine in load_here(root)}


def start_of(engine: Engine, step: int = 0) -> Point:
    return Point(engine, None, bytes(16), step)


def read(engine: Engine, step: int = 0, **given: Any) -> Any:
    return read_row(StepInput(**given), start_of(engine, step), SETTINGS)


def test_each_model_takes_the_member_that_suits_it(engines: dict[str, Engine]) -> None:
    row, member = read(engines["stepper"], inputs=[[1.0, 2.0], [3.0, 4.0]])
    assert (row.steps.tolist(), row.steps.dtype, member) == ([[1, 2], [3, 4]], np.float32, "inputs")
    for given in ({"values": [1.0, 2.0]}, {"inputs": [[1.0], [2.0]]}):
        assert read(engines["numbers"], **given)[0].steps.tolist() == [1, 2]
    row, member = read(engines["reader"], text="a good film")
    assert (row.text, member) == ("a good film", "text")


def test_a_row_knows_how_far_its_session_may_go(engines: dict[str, Engine]) -> None:
    assert read(engines["numbers"], step=7, values=[1.0])[0].steps_left == 3


@pytest.mark.parametrize(
    ("model", "given", "error", "field"),
    [
        ("stepper", {}, InvalidRequest, "inputs"),
        ("stepper", {"values": [1.0]}, InvalidRequest, "values"),
        ("stepper", {"text": "good"}, InvalidRequest, "text"),
        ("stepper", {"inputs": [[1.0, 2.0]], "values": [1.0]}, InvalidRequest, "values"),
        ("stepper", {"inputs": [[1.0, 2.0], [1.0]]}, RaggedInputs, "inputs[1]"),
        ("stepper", {"inputs": []}, EmptyInput, "inputs"),
        ("numbers", {"values": []}, EmptyInput, "values"),
        ("numbers", {"values": [1.0] * 5}, ItemTooLarge, "values"),
        ("reader", {"values": [1.0]}, InvalidRequest, "values"),
        ("reader", {"text": "a" * 13}, ItemTooLarge, "text"),
    ],
)
def test_what_does_not_suit_is_refused_with_the_member(
    engines: dict[str, Engine], model: str, given: dict[str, Any], error: type[RequestError], field: str
) -> None:
    with pytest.raises(error) as refused:
        read(engines[model], **given)
    assert (type(refused.value), refused.value.field) == (error, field)


def test_outputs_of_the_last_step_or_of_each_are_shown(engines: dict[str, Engine]) -> None:
    start = start_of(engines["stepper"])
    row, _ = read(engines["stepper"], inputs=[[1.0, 2.0], [3.0, 4.0]])
    answer = Answer({"y": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}, b"")
    assert show_step(start, row, answer, last_only=True) == {"outputs": {"y": [4.0, 5.0, 6.0]}}
    assert show_step(start, row, answer, last_only=False) == {"outputs": {"y": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}}


def test_a_state_is_shown_with_its_step_and_end(engines: dict[str, Engine]) -> None:
    point = start_of(engines["stepper"], step=5)
    shown = show_carried(point, Carried(b"token", expires_ms=1_000_000_999, held=False))
    assert shown == {"state": b"token", "step": 5, "expires_at": "1970-01-12T13:46:40Z"}
    assert show_carried(point, Carried(b"name", expires_ms=0, held=True))["held"] is True
