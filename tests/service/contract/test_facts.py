"""What a manifest derives for whoever runs the model, which never asks for its task."""

from __future__ import annotations

import pytest
import tiny
from pydantic import ValidationError

from service.contract.manifest import TASKS, Manifest

SHA = "0" * 64
TEXT = {"tokenizer": "tokenizer.json", "sha256": SHA, "max_length": 16, "unknown_token": "[UNK]"}
HISTORY = {"min_history": 3, "max_history": 9, "horizon": 4, "quantiles": [0.5]}
IDS = tiny.tensor("ids", "int64", "batch", "time")
VALUES = tiny.tensor("values", "float32", "batch", "time")
SCORES = tiny.tensor("scores", "float32", "batch", 2, labels=["no", "yes"])
BY_STEP = tiny.tensor("y", "float32", "batch", "time", 2)
FORECAST = [tiny.tensor("mean", "float32", "batch", 4), tiny.tensor("quantiles", "float32", "batch", 4, 1)]
CARRIED = {"task": "step", "streamable": True, "states": [tiny.state("h", 1, "batch", 4)], "outputs": [BY_STEP]}
CLASSIFIER = {"task": "sentiment", "inputs": [IDS], "outputs": [SCORES], "text": TEXT}
FORECASTER = {"task": "forecast", "inputs": [VALUES], "outputs": FORECAST, "forecast": HISTORY}
STEPPER = {**CARRIED, "inputs": [VALUES]}
READER = {**CARRIED, "inputs": [IDS], "text": TEXT}
TABLE = tiny.tensor("table", "string", 3, "batch")
PLAIN = {"task": "tensor", "inputs": [TABLE, VALUES, IDS], "outputs": [SCORES, BY_STEP]}
TABULAR = {"task": "tensor", "inputs": [TABLE], "outputs": [SCORES]}


def read(members: dict) -> Manifest:
    due = {"schema_version": 1, "name": "model", "version": "1", "file": "model.onnx", "sha256": SHA}
    return Manifest.model_validate({**due, **members})


@pytest.mark.parametrize(
    ("members", "steps"),
    [
        *((CLASSIFIER, (1, 16)), (FORECASTER, (3, 9)), (STEPPER, (1, None)), (READER, (1, None))),
        *((PLAIN, (1, None)), (TABULAR, (1, 1))),
    ],
)
def test_rows_have_the_steps_of_the_model_s_text_or_history_or_as_many_as_the_service_takes(
    members: dict, steps: tuple[int, int | None]
) -> None:
    """A reader of streams has no longest text: its `max_length` is for texts that come whole. Without a time axis, and
    without a session to go on with, a row is one step."""
    assert read(members).row_steps == steps


@pytest.mark.parametrize(("members", "marked"), [(CLASSIFIER, True), (READER, False)])
def test_a_text_gets_special_tokens_where_it_comes_whole(members: dict, marked: bool) -> None:
    assert read(members).adds_special_tokens is marked


@pytest.mark.parametrize(
    ("members", "probabilities"),
    [(CLASSIFIER, True), (FORECASTER, False), (STEPPER, False), (READER, False), (PLAIN, False)],
)
def test_outputs_sum_to_one_where_the_task_says_so(members: dict, probabilities: bool) -> None:
    assert read(members).sums_to_one is probabilities


def test_the_first_input_with_a_time_axis_is_the_sequence_and_the_others_keep_their_order() -> None:
    plain, tabular = read(PLAIN), read(TABULAR)
    assert (plain.sequence.name, [tensor.name for tensor in plain.others]) == ("values", ["table", "ids"])
    assert (tabular.sequence.name, tabular.others) == ("table", ())
    assert [*plain.by_row] == ["table", "values", "ids"]


@pytest.mark.parametrize(
    ("members", "finite"), [(CLASSIFIER, True), (FORECASTER, True), (STEPPER, True), (READER, True), (PLAIN, False)]
)
def test_values_must_be_finite_unless_the_task_lets_them_pass_as_they_are(members: dict, finite: bool) -> None:
    assert read(members).finite is finite


@pytest.mark.parametrize("members", [CLASSIFIER, FORECASTER, STEPPER, READER, PLAIN])
def test_clients_carry_the_states_of_the_tasks_that_are_streamable(members: dict) -> None:
    assert read(members).streamable is TASKS[members["task"]].streamable
    with pytest.raises(ValidationError, match=r"must be true for task 'step', and for no other|must name the states"):
        read({**members, "streamable": not members.get("streamable", False)})


def test_a_task_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValidationError, match="Input should be 'sentiment', 'forecast', 'step' or 'tensor'"):
        read({**STEPPER, "task": "dance"})
    assert Manifest.model_json_schema()["properties"]["task"]["enum"] == [*TASKS]
