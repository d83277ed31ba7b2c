"""What a manifest derives for whoever runs the model, which never asks for its task."""

from __future__ import annotations

import pytest
from members import CLASSIFIER, FORECASTER, PLAIN, READER, STEPPER, TABULAR, read
from pydantic import ValidationError

from service.contract.manifest import Manifest
from service.contract.tasks import TASKS


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
    with pytest.raises(
        ValidationError,
        match=r"must be true: steps carry states|must be false: nothing is carried|must name the states",
    ):
        read({**members, "streamable": not members.get("streamable", False)})


def test_a_task_that_is_not_in_the_table_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ValidationError,
        match="should be 'sentiment', 'forecast', 'step', 'tensor', 'tag', 'transform', 'classify' or 'translate'",
    ):
        read({**STEPPER, "task": "dance"})
    assert Manifest.model_json_schema()["properties"]["task"]["enum"] == [*TASKS]
