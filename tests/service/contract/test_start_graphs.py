"""What a manifest must say of the condition that sessions begin from, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from members import IDS, SHA, TEXT, read
from pydantic import ValidationError

SOURCE = tiny.tensor("source", "int64", "batch", "time")
STATE = tiny.state("h", 1, "batch", 4)
MEMORY = {"input": "memory", "dtype": "float32", "shape": ["batch", "memory", 6]}
LAST, READ = tiny.tensor("last", "float32", 1, "batch", 4), tiny.tensor("read", "float32", "batch", "time", 6)
LOGITS = tiny.tensor("logits", "float32", "batch", "time", 7)
ATTENTION = tiny.tensor("attention", "float32", "batch", "time", "memory")
FEEDBACK = {"kind": "categorical", "output": "logits", "form": "logits", "start": 0, "end": 6}
START = {
    "file": "start.onnx",
    "sha256": SHA,
    "inputs": [SOURCE],
    "outputs": [LAST, READ],
    "states": {"h": "last", "memory": "read"},
    "text": {**TEXT, "tokenizer": "source.json"},
}
TRANSLATOR = {
    "task": "translate",
    "streamable": True,
    "inputs": [IDS],
    "outputs": [LOGITS, ATTENTION],
    "states": [STATE, MEMORY],
    "memory_lengths": "sizes",
    "text": TEXT,
    "feedback": FEEDBACK,
    "start": START,
}


def broken(**changes: Any) -> str:
    """Return the field and the message of the rule that a translator with these changes breaks."""
    with pytest.raises(ValidationError) as refused:
        read({**TRANSLATOR, **changes})
    error = refused.value.errors()[0]
    return f"{error['ctx']['error'].field}: {error['ctx']['error']}"


def start(**changes: Any) -> dict[str, Any]:
    return {"start": {**START, **changes}}


def test_what_follows_from_a_start_graph() -> None:
    manifest = read(TRANSLATOR)
    assert manifest.answers == ("translate", "step", "generate")
    assert (manifest.attention, manifest.memory_bytes) == ("attention", 6 * 4)
    assert manifest.state_bytes == 4 * 4 + 7 * 4 + 8 * 8
    starter = manifest.starter
    assert starter is not None
    assert (starter.sequence.name, starter.adds_special_tokens, starter.row_steps) == ("source", True, (1, 16))
    assert read({**TRANSLATOR, "arithmetic": "int8"}).starter.arithmetic == "int8"  # type: ignore[union-attr]


def test_a_start_graph_gives_states_another_meaning() -> None:
    prints = {
        read(members).fingerprint
        for members in (
            TRANSLATOR,
            {**TRANSLATOR, **start(sha256="1" * 64)},
            {**TRANSLATOR, **start(states={"h": "last", "memory": "read"}, lengths="lengths")},
            {**TRANSLATOR, "memory_lengths": None},
        )
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            {"start": None, "task": "step"},
            "states[1]: has an axis 'memory', so 'start.states' must say what it begins with",
        ),
        (
            {"states": [STATE, MEMORY, {**STATE, "input": "x", "output": None}]},
            "states[2]: has no 'output', so 'start.states' must say what it begins with",
        ),
        (start(states={"h": "last"}), "states[1]: has an axis 'memory', so 'start.states'"),
        (start(states={"h": "last", "memory": "read", "c": "last"}), "start.states.c: is no state; the states are h"),
        (start(states={"h": "first", "memory": "read"}), "start.states.h: 'first' is no output of the start graph"),
        (
            start(states={"h": "read", "memory": "read"}),
            "start.states.h: 'read' is float32 ['batch', 'time', 6]; the state takes float32 [1, 'batch', 4]",
        ),
        (
            start(states={"h": "last", "memory": "last"}),
            "start.states.memory: 'last' is float32 [1, 'batch', 4]; the state takes float32 ['batch', 'time', 6]",
        ),
        ({"states": [{**STATE, "start": 1}, MEMORY]}, "start.states.h: 'h' has a 'start' of its own"),
        (
            {"states": [STATE], **start(states={"h": "last"}), "outputs": [LOGITS]},
            "memory_lengths: must be left out; no state has an axis 'memory'",
        ),
        (
            {"states": [STATE], **start(states={"h": "last"}), "memory_lengths": None},
            "outputs[1].shape: is ['batch', 'time', 'memory']; 'memory' is an axis of states",
        ),
        (
            {"inputs": [tiny.tensor("ids", "int64", "batch", "memory")]},
            "outputs[0].shape: is ['batch', 'time', 7]; it must hold no 'time', as the input",
        ),
        (start(inputs=[tiny.tensor("source", "float32", "batch", "time")]), "start.inputs[0].dtype: is float32; with"),
        (start(outputs=[LAST, ATTENTION]), "start.outputs[1].shape: is ['batch', 'time', 'memory']; 'memory' is an"),
        ({"feedback": None}, "feedback: must be there, with the ids that start and end a text"),
        ({"feedback": {**FEEDBACK, "end": None}}, "feedback: must be there, with the ids that start and end a text"),
        (start(text=None), "start.text: is missing; task 'translate' needs a tokenizer on both sides"),
        ({"task": "tag"}, "feedback: must be left out; task 'tag' has none"),
    ],
)
def test_a_rule_that_is_broken_is_named_with_its_field(changes: dict[str, Any], rule: str) -> None:
    assert broken(**changes).startswith(rule)
