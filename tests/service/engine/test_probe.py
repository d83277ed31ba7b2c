"""What the probe finds by running a graph: probabilities that are none, and ids that a graph does not take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_conditions
import tiny_pens
import tiny_sequences
import tiny_writers
from here import load_here
from tiny_writers import FEEDBACK, LETTERS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from service.errors import ManifestError


def refused(models: Path) -> tuple[str, str]:
    """Return the field and the message of the refusal."""
    with pytest.raises(ManifestError) as failure:
        load_here(models)
    return failure.value.field, failure.value.message


def writer_of(root: Path, *, taken: int, drawn: int, **feedback: Any) -> Path:
    """A generator of so many ids, which takes another number of them."""
    build = tiny.GraphBuilder(7)
    (embedded,) = build.add("Gather", [build.weight(taken, 3), "ids"])
    y, h = build.recurrent("GRU", embedded, 3, 4, ["h"], linear_before_reset=1)
    (made,) = build.add("Softmax", [build.dense(y, 4, drawn)], axis=-1)
    return tiny.write_model(
        root,
        build,
        {"probabilities": made, "h_out": h},
        name="writer",
        task="step",
        streamable=True,
        inputs=[tiny.tensor("ids", "int64", "batch", "time")],
        outputs=[tiny.tensor("probabilities", "float32", "batch", "time", drawn)],
        states=[tiny.state("h", 1, "batch", 4)],
        feedback={**FEEDBACK, **feedback},
    )


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        (
            {"taken": 8, "drawn": 8, "start": 8},
            "feedback.start",
            "fails on the id 8: give an id that it takes, or null",
        ),
        ({"taken": 6, "drawn": 8, "end": 7}, "feedback.end", "fails on the id 7: give an id that it takes, or null"),
        (
            {"taken": 6, "drawn": 40},
            "feedback.output",
            "fails on the id 39: 'probabilities' has numbers for the ids 0 to",
        ),
    ],
)
def test_a_graph_must_take_each_id_that_generation_feeds_it(
    given: dict[str, Any], field: str, message: str, tmp_path: Path
) -> None:
    writer_of(tmp_path, **given)
    found, told = refused(tmp_path)
    assert found == field
    assert message in told


def test_a_generator_may_start_beyond_the_ids_that_it_draws(tmp_path: Path) -> None:
    writer_of(tmp_path, taken=9, drawn=8, start=8, end=7)
    (engine,) = load_here(tmp_path)
    assert engine.manifest.feedback is not None


def test_logits_that_are_declared_as_probabilities_are_refused(tmp_path: Path) -> None:
    tiny_writers.generator(tmp_path, form="logits", feedback=FEEDBACK)
    found, told = refused(tmp_path)
    assert found == "feedback.form"
    assert told.startswith("the numbers of 'probabilities' are no probabilities")
    assert told.endswith('declare "logits"')


def test_what_says_that_writing_is_finished_must_be_a_probability(tmp_path: Path) -> None:
    tiny_pens.penman(tmp_path, sure=False)
    found, told = refused(tmp_path)
    assert found == "feedback.finished"
    assert told == "the numbers of 'end' are no probabilities: some are below 0 or above 1; end it in a sigmoid"


def test_a_graph_must_take_the_point_that_it_starts_with(tmp_path: Path) -> None:
    """Its square is beyond float32 here."""
    build = tiny.GraphBuilder(7)
    (squares,) = build.add("Mul", ["points", "points"])
    y, h = build.recurrent("GRU", squares, 3, 4, ["h"], linear_before_reset=1)
    (by_time,) = build.add("ReduceSum", [squares, build.constant(np.array([2], np.int64))], keepdims=1)
    (mixture,) = build.add("Add", [build.dense(y, 4, 7), by_time])
    tiny.write_model(
        tmp_path,
        build,
        {"mixture": mixture, "h_out": h},
        name="far",
        task="step",
        streamable=True,
        inputs=[tiny.tensor("points", "float32", "batch", "time", 3)],
        outputs=[tiny.tensor("mixture", "float32", "batch", "time", 7)],
        states=[tiny.state("h", 1, "batch", 4)],
        feedback={**tiny_pens.MIXTURE, "components": 1, "start": [0, 1e30, 0]},
    )
    found, told = refused(tmp_path)
    assert found == "feedback.start"
    assert told.startswith("the graph fails on the point [0.0, 1e+30, 0.0]: give one that it takes")


def test_scores_that_are_negative_are_refused_though_they_sum_to_one(tmp_path: Path) -> None:
    build, tokenizer = tiny.GraphBuilder(3), tiny_sequences.pieces()
    (embedded,) = build.add("Gather", [build.weight(tokenizer.get_vocab_size(), 3), "ids"])
    made = build.dense(embedded, 3, 2)
    (total,) = build.add("ReduceSum", [made, build.constant(np.array([2], np.int64))], keepdims=1)
    (missing,) = build.add("Sub", [build.constant(np.array(1, np.float32)), total])
    (half,) = build.add("Mul", [missing, build.constant(np.array(0.5, np.float32))])
    (scores,) = build.add("Add", [made, half])
    tiny.write_model(
        tmp_path,
        build,
        {"scores": scores},
        tokenizer=tokenizer,
        name="tagger",
        task="tag",
        inputs=[tiny.tensor("ids", "int64", "batch", "time")],
        outputs=[tiny.tensor("scores", "float32", "batch", "time", 2, labels=["a", "b"])],
        text=tiny.text_settings(polarity=None),
    )
    found, told = refused(tmp_path)
    assert found == "outputs[0]"
    assert "some are negative, or they do not sum to 1; the graph must end in a softmax" in told


def test_the_last_id_of_a_tokenizer_with_gaps_is_tried(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": len(LETTERS) + 50}, unk_token="[UNK]"))
    tiny_sequences.live_tagger(tmp_path, tokenizer)
    found, told = refused(tmp_path)
    assert (found, "fails on a short probe" in told) == ("file", True)


@pytest.mark.parametrize("changes", [{"masked": False}, {"masked": False, "lengths": ""}])
def test_padding_of_a_memory_that_counts_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    tiny_conditions.translator(tmp_path, **changes)
    with pytest.raises(ManifestError, match=r"a row's answer changes by .* with its neighbours"):
        load_here(tmp_path)


def test_a_start_graph_is_probed_as_the_model_and_named_where_it_fails(tmp_path: Path) -> None:
    directory = tiny_conditions.translator(tmp_path)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["start"]["outputs"][1]["shape"] = ["batch", "time", 5]
    manifest["states"][1]["shape"] = ["batch", "memory", 5]
    tiny.write_manifest(directory, manifest)
    with pytest.raises(ManifestError, match=r"start\.outputs\[1\]: memory_0 is declared .* but the graph has"):
        load_here(tmp_path)
