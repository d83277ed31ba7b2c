"""What `baton inspect` drafts a graph for: its task by form and by what a person says, and how it generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from here import load_here
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel

from service.errors import ManifestError, StartupError
from service.inspect.draft import Draft, draft
from service.inspect.hints import read_hints
from service.settings import Settings

IDS = len(tiny.WORDS)
TAGS = "DET,NOUN,ADJ"


def graph(
    folder: Path, *, ids: int = 0, states: bool = False, by_step: bool = True, softmax: bool = True, out: int = 3
) -> Path:
    """A GRU over ids of a table with so many rows, or over values; an answer for each step or row."""
    build = tiny.GraphBuilder(17)
    if ids:
        (rows,) = build.add("Gather", [build.weight(ids, 4), "given"])
    else:
        (rows,) = build.add("Unsqueeze", ["given", build.constant(np.array([2], np.int64))])
    direction = "forward" if states or not by_step else "bidirectional"
    size, hidden = (4 if ids else 1), (5 if direction == "forward" else 10)
    y, h = build.recurrent("GRU", rows, size, 5, ["h"] if states else [], linear_before_reset=1, direction=direction)
    if not by_step:
        (y,) = build.add("Squeeze", [h, build.constant(np.array([0], np.int64))])
    made = build.dense(y, hidden, out)
    if softmax:
        (made,) = build.add("Softmax", [made], axis=-1)
    inputs = [tiny.tensor("given", "int64" if ids else "float32", "batch", "time")]
    inputs.append(tiny.tensor("lengths", "int32", "batch"))
    outputs = [tiny.tensor("made", "float32", *(("batch", "time") if by_step else ("batch",)), out)]
    answers = {"made": made}
    if states:
        inputs.append(tiny.tensor("h", "float32", 1, "batch", 5))
        outputs.append(tiny.tensor("h_out", "float32", 1, "batch", 5))
        answers["h_out"] = h
    build.save(folder / "model.onnx", inputs, outputs, answers)
    return folder / "model.onnx"


def words(folder: Path) -> Path:
    tiny.words().save(str(folder / "words.json"))
    return folder / "words.json"


def drafted(file: Path, task: str | None = None, *labels: str, tokenizer: Path | None = None) -> Draft:
    hints = read_hints((), (), (), [f"made={names}" for names in labels], tokenizer)
    return draft(file, "model", Settings(), hints, task, optimisation="all")


def said(made: Draft, what: str) -> bool:
    return any(what in doubt for doubt in made.doubts)


@pytest.mark.parametrize(("softmax", "form"), [(True, "probabilities"), (False, "logits")])
def test_a_step_of_one_id_that_gives_a_number_for_each_id_is_drafted_to_generate(
    softmax: bool, form: str, tmp_path: Path
) -> None:
    """The numbers' form shows in a run; where a text begins and ends is asked."""
    made = drafted(graph(tmp_path, ids=IDS, out=IDS, states=True, softmax=softmax))
    assert (made.problem, made.manifest.task, made.manifest.answers) == (None, "step", ("step", "generate"))
    assert made.manifest.feedback is not None
    assert (made.manifest.feedback.output, made.manifest.feedback.form) == ("made", form)
    assert (made.manifest.feedback.start, made.manifest.feedback.end) == (None, None)
    assert said(made, "feedback: whether the numbers of made are those of the id that comes next; start, the id")


@pytest.mark.parametrize("given", [{"ids": IDS + 4, "out": IDS}, {"ids": IDS, "out": 3}, {"out": IDS}])
def test_a_step_whose_numbers_are_not_those_of_its_ids_is_drafted_without_feedback(
    given: dict[str, Any], tmp_path: Path
) -> None:
    assert drafted(graph(tmp_path, states=True, **given)).manifest.feedback is None


def test_a_tokenizer_tells_how_many_ids_there_are_where_the_graph_does_not(tmp_path: Path) -> None:
    file = graph(tmp_path, ids=IDS + 4, out=IDS, states=True)
    made = drafted(file, tokenizer=words(tmp_path))
    assert made.problem is None
    assert made.manifest.feedback is not None
    assert made.manifest.text is not None
    assert made.manifest.text.unknown_token == "[UNK]"
    assert said(made, "text.max_length: the most tokens of a text; 512 stands in")
    made.write(file, tmp_path / "models")
    (engine,) = load_here(tmp_path / "models")
    assert engine.manifest == made.manifest


def test_an_unknown_token_that_a_tokenizer_does_not_name_is_a_doubt(tmp_path: Path) -> None:
    file = tmp_path / "pairs.json"
    file.write_text(
        '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, '
        '"pre_tokenizer": null, "post_processor": null, "decoder": null, '
        '"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}'
    )
    made = drafted(graph(tmp_path, ids=2, out=2, states=True), tokenizer=file)
    assert said(made, "text.unknown_token: the tokenizer names none; a, its first, stands in")


def test_a_unigram_tokenizer_names_its_unknown_token_by_its_place(tmp_path: Path) -> None:
    tokenizer = Tokenizer(Unigram([("<pad>", 0.0), ("<unk>", 0.0), ("a", -1.0)], unk_id=1))
    tokenizer.save(str(tmp_path / "unigram.json"))
    made = drafted(graph(tmp_path, ids=3, out=3, states=True), tokenizer=tmp_path / "unigram.json")
    assert made.manifest.text is not None
    assert made.manifest.text.unknown_token == "<unk>"
    assert not said(made, "text.unknown_token")


def test_a_tokenizer_with_gaps_has_as_many_ids_as_its_last_says(tmp_path: Path) -> None:
    Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 7}, unk_token="[UNK]")).save(str(tmp_path / "gaps.json"))
    made = drafted(graph(tmp_path, ids=12, out=8, states=True), tokenizer=tmp_path / "gaps.json")
    assert made.problem is None
    assert made.manifest.feedback is not None


@pytest.mark.parametrize(
    ("given", "others"),
    [
        ({"ids": IDS}, {"tag", "classify"}),
        ({"ids": IDS, "by_step": False}, {"classify"}),
        ({"softmax": False}, {"transform"}),
        ({"softmax": False, "by_step": False}, set()),
        ({"by_step": False}, {"classify"}),
    ],
)
def test_without_a_word_of_its_task_a_graph_is_drafted_as_ever_and_told_what_it_could_be(
    given: dict[str, Any], others: set[str], tmp_path: Path
) -> None:
    made = drafted(graph(tmp_path, **given))
    assert (made.problem, made.manifest.task) == (None, "tensor")
    for task in ("tag", "transform", "classify"):
        assert said(made, f"task: it has the form of {task!r} as well: --task {task}") == (task in others)


def test_a_graph_of_single_steps_that_carries_nothing_labels_no_sequence(tmp_path: Path) -> None:
    build = tiny.GraphBuilder(5)
    (scores,) = build.add("Softmax", [build.dense("given", 4, 3)], axis=-1)
    tensors = (tiny.tensor("given", "float32", "batch", 4), tiny.tensor("made", "float32", "batch", 3))
    build.save(tmp_path / "model.onnx", [tensors[0]], [tensors[1]], {"made": scores})
    made = drafted(tmp_path / "model.onnx", None, TAGS)
    assert (made.problem, made.manifest.task) == (None, "tensor")
    assert not said(made, "it has the form of")


def test_a_tokenizer_and_labels_make_a_tagger_of_what_answers_each_id(tmp_path: Path) -> None:
    file = graph(tmp_path, ids=IDS)
    made = drafted(file, None, TAGS, tokenizer=words(tmp_path))
    assert (made.problem, made.manifest.task, made.manifest.streamable) == (None, "tag", False)
    assert made.manifest.outputs[0].labels == ("DET", "NOUN", "ADJ")
    assert said(made, "streamable: it reads whole sequences, for it is no step model (states: ")
    assert not said(made, "outputs[0]: what the values of made mean")
    made.write(file, tmp_path / "models")
    (engine,) = load_here(tmp_path / "models")
    assert engine.manifest.task == "tag"


@pytest.mark.parametrize("by_step", [True, False])
def test_labels_make_a_classifier_of_probabilities_from_values(by_step: bool, tmp_path: Path) -> None:
    made = drafted(graph(tmp_path, by_step=by_step), None, TAGS)
    assert (made.problem, made.manifest.task) == (None, "classify")
    assert said(made, "signal: where a step is a sample or a frame of a signal")


def test_a_tokenizer_and_labels_make_a_classifier_of_what_answers_each_text(tmp_path: Path) -> None:
    made = drafted(graph(tmp_path, ids=IDS, by_step=False), None, TAGS, tokenizer=words(tmp_path))
    assert (made.problem, made.manifest.task) == (None, "classify")


@pytest.mark.parametrize("states", [False, True])
def test_a_series_in_and_as_long_a_series_out_is_a_transformer_where_a_person_says_so(
    states: bool, tmp_path: Path
) -> None:
    """With states it streams as well."""
    made = drafted(graph(tmp_path, softmax=False, out=1, states=states), "transform")
    assert (made.problem, made.manifest.task, made.manifest.streamable) == (None, "transform", states)
    assert ("step" in made.manifest.answers) == states


@pytest.mark.parametrize("task", ["tag", "classify"])
def test_with_states_a_tagger_and_a_classifier_stream(task: str, tmp_path: Path) -> None:
    made = drafted(graph(tmp_path, ids=IDS, states=True), task, TAGS, tokenizer=words(tmp_path))
    assert (made.problem, made.manifest.answers) == (None, (task, "step"))


def test_a_task_that_needs_more_than_is_said_names_the_options(tmp_path: Path) -> None:
    file = graph(tmp_path, ids=IDS)
    asked = "--task: task 'tag' needs more than the graph tells: --task tag --tokenizer FILE --labels made=FIRST,SECOND"
    for task, labels, tokenizer in (("tag", [], None), ("tag", [TAGS], None), (None, [], words(tmp_path))):
        with pytest.raises(ManifestError, match=asked):
            drafted(file, task, *labels, tokenizer=tokenizer)


def test_labels_are_those_of_an_output_that_the_graph_has_and_as_many(tmp_path: Path) -> None:
    file = graph(tmp_path, ids=IDS)
    with pytest.raises(ManifestError, match="--labels: the graph has no output 'scores'; it has made"):
        draft(file, "model", Settings(), read_hints((), (), (), ["scores=a,b"]), optimisation="all")
    with pytest.raises(ManifestError, match=r"2 do not fit the last size of shape \['batch', 'time', 3\]"):
        drafted(file, "tag", "DET,NOUN", tokenizer=words(tmp_path))
    for labels in ("made", "made=", "made=a,,b", "made=a,a"):
        with pytest.raises(StartupError, match="give each output once, as in --labels scores=ham,spam"):
            read_hints((), (), (), [labels])


def test_scores_that_are_no_probabilities_make_no_tagger(tmp_path: Path) -> None:
    made = drafted(graph(tmp_path, ids=IDS, softmax=False), "tag", TAGS, tokenizer=words(tmp_path))
    assert made.problem is not None
    assert "the graph must end in a softmax" in made.problem.message


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    file = graph(tmp_path, ids=IDS)
    with pytest.raises(ManifestError, match="--tokenizer: the tokenizers library cannot load it"):
        drafted(file, tokenizer=file)
    with pytest.raises(StartupError, match=r"absent.json cannot be read: No such file"):
        drafted(file, tokenizer=tmp_path / "absent.json")
