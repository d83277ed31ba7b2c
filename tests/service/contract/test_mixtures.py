"""What the manifests of models that draw points from mixtures must say, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from members import TEXT, read
from pydantic import ValidationError

from service.contract.parts import Feedback, Mixture
from service.contract.tensors import FieldError

POINTS = tiny.tensor("points", "float32", "batch", "time", 3)
PARAMETERS = tiny.tensor("mixture", "float32", "batch", "time", 13)
END = tiny.tensor("end", "float32", "batch", "time", 1)
MIXTURE = {"kind": "mixture", "output": "mixture", "components": 2, "start": [0, 0, 1], "finished": "end"}
PEN = {
    "task": "step",
    "streamable": True,
    "inputs": [POINTS],
    "outputs": [PARAMETERS, END],
    "states": [tiny.state("h", 1, "batch", 4)],
    "feedback": MIXTURE,
}
BY_STEP = {
    "inputs": [tiny.tensor("points", "float64", 3, "batch")],
    "outputs": [tiny.tensor("mixture", "float32", "batch", 13), tiny.tensor("end", "float32", "batch")],
}


def refusal(members: dict[str, Any]) -> tuple[str, str]:
    """Return the field and the message of the only refusal."""
    with pytest.raises(ValidationError) as refused:
        read(members)
    (error,) = refused.value.errors()
    cause = error.get("ctx", {}).get("error")
    own = cause.field if isinstance(cause, FieldError) else ""
    return ".".join(part for part in (*map(str, error["loc"]), own) if part), error["msg"]


@pytest.mark.parametrize("changes", [{}, BY_STEP, {"feedback": {**MIXTURE, "finished": None}}])
def test_a_model_of_points_writes_with_a_time_axis_or_without(changes: dict[str, Any]) -> None:
    manifest = read({**PEN, **changes})
    assert isinstance(manifest.feedback, Mixture)
    assert manifest.answers == ("step", "generate")
    assert [(state.input, state.row_shape) for state in manifest.carried] == [("h", (1, 4)), ("mixture", (13,))]
    assert manifest.recent is None


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"feedback": {**MIXTURE, "output": "y"}}, "feedback.output", "'y' is no output that has the parameters"),
        (
            {"outputs": [{**PARAMETERS, "dtype": "int64"}, END]},
            "feedback.output",
            "'mixture' is no output that has the parameters of a mixture, at each step",
        ),
        ({"states": [{**PEN["states"][0], "input": "mixture"}]}, "feedback.output", "is the name of a state as well"),
        (
            {"feedback": {**MIXTURE, "components": 3}},
            "feedback.components",
            "3 of them have 19 parameters, 6 each and the end of the stroke; 'mixture' has 13",
        ),
        ({"feedback": {**MIXTURE, "components": 0}}, "feedback.components", "greater than or equal to 1"),
        (
            {"inputs": [tiny.tensor("points", "float32", "batch", "time", 2)]},
            "inputs[0]",
            "is float32 ['batch', 'time', 2]; with a mixture a step is 3 floats: an offset to the right, one upwards",
        ),
        ({"inputs": [{**POINTS, "dtype": "int32"}]}, "inputs[0]", "with a mixture a step is 3 floats"),
        ({"feedback": {**MIXTURE, "start": [0, 1e39, 0]}}, "feedback.start", "has a number that is no float32"),
        ({"feedback": {**MIXTURE, "start": [0, 0, 2]}}, "feedback.start.2", "less than or equal to 1"),
        ({"feedback": {**MIXTURE, "start": [0, 0]}}, "feedback.start.2", "Field required"),
        ({"feedback": {**MIXTURE, "form": "logits"}}, "feedback.form", "Extra inputs are not permitted"),
        ({"feedback": {**MIXTURE, "finished": "y"}}, "feedback.finished", "'y' is no output that has one float"),
        ({"feedback": {**MIXTURE, "finished": "mixture"}}, "feedback.finished", "no output that has one float"),
        ({"outputs": [PARAMETERS, {**END, "dtype": "int32"}]}, "feedback.finished", "no output that has one float"),
        ({"text": TEXT, "inputs": [POINTS]}, "inputs[0].shape", "with 'text' a step is one id"),
    ],
)
def test_a_mixture_must_have_its_parameters_and_points_their_numbers(
    changes: dict[str, Any], field: str, message: str
) -> None:
    found, told = refusal({**PEN, **changes})
    assert found == field
    assert message in told


def test_a_part_that_was_read_is_taken_as_it_is() -> None:
    mixture = Mixture.model_validate(MIXTURE)
    manifest = read({**PEN, "feedback": mixture})
    assert manifest.feedback == mixture
    assert type(manifest).model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.fingerprint != read({**PEN, "feedback": {**MIXTURE, "finished": None}}).fingerprint


def test_the_feedback_of_ids_is_as_it_was() -> None:
    members = {
        **PEN,
        "inputs": [tiny.tensor("ids", "int64", "batch", "time")],
        "outputs": [tiny.tensor("logits", "float32", "batch", "time", 7)],
        "feedback": {"kind": "categorical", "output": "logits", "form": "logits", "start": 0, "end": 6},
    }
    assert isinstance(read(members).feedback, Feedback)
    assert read(members).fingerprint.hex() == "fc84e7e74cbe8ac9fa655885b1ca593e"
