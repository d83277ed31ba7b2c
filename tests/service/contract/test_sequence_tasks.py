"""What the manifests of models that tag, transform, classify or generate must say, and what follows from it."""

from __future__ import annotations

import pytest
import tiny
from members import CLASSIFIER, FORECASTER, HISTORY, IDS, PLAIN, READER, STEPPER, TEXT, VALUES, read
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from service.contract.manifest import Manifest
from service.contract.parts import Characters
from service.model.vocabulary import Vocabulary

SPELLED = {**TEXT, "characters": {"alphabet": "abc", "width": 4}}
WITH_CHARACTERS = tiny.tensor("ids", "int32", "batch", "time", 5)
FRAMES = tiny.tensor("values", "float32", "batch", "time", 8)
BY_STEP = tiny.tensor("scores", "float32", "batch", "time", 2, labels=["no", "yes"])
WHOLE = tiny.tensor("scores", "float32", "batch", 2, labels=["no", "yes"])
LIVE = {"streamable": True, "states": [tiny.state("h", 1, "batch", 4)]}
TAGGER = {"task": "tag", "inputs": [IDS], "outputs": [BY_STEP], "text": TEXT}
SPELLER = {**TAGGER, "inputs": [WITH_CHARACTERS], "text": SPELLED}
CLEANER = {
    "task": "transform",
    "inputs": [FRAMES],
    "outputs": [{**FRAMES, "name": "clean"}],
    "signal": {"sample_rate": 8},
}
LISTENER = {"task": "classify", "inputs": [FRAMES], "outputs": [WHOLE], "signal": {"sample_rate": 8000}}
TOPIC = {"task": "classify", "inputs": [IDS], "outputs": [WHOLE], "text": TEXT}
ONE_ID = tiny.tensor("ids", "int64", "batch")
FRAME = tiny.tensor("values", "float32", "batch", 8)
FEEDBACK = {"kind": "categorical", "output": "logits", "form": "logits", "start": 0, "end": 6}
LOGITS = tiny.tensor("logits", "float32", "batch", "time", 7)
WRITER = {**LIVE, "task": "step", "inputs": [IDS], "outputs": [LOGITS], "text": TEXT, "feedback": FEEDBACK}


def without(members: dict, name: str) -> dict:
    return {key: value for key, value in members.items() if key != name}


@pytest.mark.parametrize(
    ("members", "answers"),
    [
        (CLASSIFIER, ("sentiment", "classify")),
        (FORECASTER, ("forecast",)),
        (STEPPER, ("step",)),
        (WRITER, ("step", "generate")),
        (PLAIN, ("tensor",)),
        (TAGGER, ("tag",)),
        ({**TAGGER, **LIVE}, ("tag", "step")),
        (CLEANER, ("transform",)),
        ({**CLEANER, **LIVE}, ("transform", "step")),
        (LISTENER, ("classify",)),
        ({**LISTENER, **LIVE, "outputs": [BY_STEP]}, ("classify", "step")),
        ({**LISTENER, **LIVE, "inputs": [FRAME]}, ("classify", "step")),
    ],
)
def test_a_model_answers_where_its_task_its_states_and_its_feedback_say(members: dict, answers: tuple) -> None:
    assert read(members).answers == answers


@pytest.mark.parametrize(
    ("members", "placed", "marked"),
    [
        (TAGGER, True, False),
        (SPELLER, True, False),
        (TOPIC, False, True),
        ({**TOPIC, **LIVE, "outputs": [BY_STEP]}, False, False),
        ({**TOPIC, "inputs": [WITH_CHARACTERS], "text": SPELLED}, True, True),
        (CLASSIFIER, False, True),
        (READER, False, False),
    ],
)
def test_places_are_kept_where_they_are_shown_or_characters_are_read(members: dict, placed: bool, marked: bool) -> None:
    """Texts that are tagged, and those that come in parts, get no special tokens."""
    manifest = read(members)
    assert (manifest.needs_offsets, manifest.adds_special_tokens) == (placed, marked)


@pytest.mark.parametrize(("members", "sums"), [(TAGGER, True), (LISTENER, True), (CLEANER, False), (WRITER, False)])
def test_labels_have_probabilities(members: dict, sums: bool) -> None:
    assert read(members).sums_to_one is sums


@pytest.mark.parametrize(
    ("members", "field", "message"),
    [
        (without(TAGGER, "text"), "text", "is missing; task 'tag' needs a tokenizer and a max_length"),
        ({**TAGGER, "outputs": [WHOLE]}, "outputs", "must be one float32 tensor [batch, time, labels]"),
        ({**TAGGER, "outputs": [LOGITS]}, "outputs", "that names its labels"),
        ({**TAGGER, "outputs": [BY_STEP, LOGITS]}, "outputs", "must be one float32 tensor [batch, time, labels]"),
        ({**TAGGER, "outputs": [{**BY_STEP, "dtype": "float64"}]}, "outputs", "must be one float32 tensor"),
        ({**TAGGER, "signal": {"sample_rate": 8}}, "signal", "must be left out; task 'tag' has none"),
        ({**TAGGER, "feedback": FEEDBACK}, "feedback", "must be left out; task 'tag' has none"),
        ({**TAGGER, "forecast": HISTORY}, "forecast", "must be left out; task 'tag' has none"),
        (
            {**TAGGER, "text": {**TEXT, "polarity": [-1, 1]}},
            "text.polarity",
            "must be left out; answers of task 'tag' have none",
        ),
        ({**TOPIC, "text": {**TEXT, "polarity": [-1, 1]}}, "text.polarity", "answers of task 'classify' have none"),
        (
            {**WRITER, "outputs": [{**LOGITS, "labels": [*"abcdefg"]}], "text": {**TEXT, "polarity": [-1, 1]}},
            "text.polarity",
            "has 2 weights for 7 labels",
        ),
        (without(TOPIC, "text"), "inputs[0].dtype", "is int64; without 'text' it is float32 or float64"),
        (
            {**TAGGER, "inputs": [ONE_ID]},
            "inputs[0].shape",
            "is ['batch']; for task 'tag' it must hold 'time', so that a row has all its steps in one run",
        ),
        ({**TOPIC, "inputs": [ONE_ID]}, "inputs[0].shape", "is ['batch']; for task 'classify' it must hold 'time'"),
        ({**LISTENER, "inputs": [FRAME]}, "inputs[0].shape", "is ['batch', 8]; for task 'classify' it must"),
        ({**TOPIC, "outputs": [LOGITS]}, "outputs", "[batch, labels] or [batch, time, labels], that names its labels"),
        ({**TOPIC, **LIVE}, "outputs[0].shape", "is ['batch', 2]; it must hold 'time', as the input does"),
        ({**LISTENER, "streamable": True}, "states", "a streamable model must name the states"),
        ({**CLEANER, "text": TEXT}, "text", "must be left out; task 'transform' has none"),
        ({**CLEANER, "outputs": [WHOLE]}, "outputs", "must be one tensor [batch, time] or [batch, time, values]"),
        ({**CLEANER, "outputs": [BY_STEP]}, "outputs[0].shape", "as many samples come out of a step as go in"),
        ({**CLEANER, "inputs": [{**FRAMES, "dtype": "float64"}]}, "outputs", "of the input's dtype"),
        (
            {**CLEANER, "inputs": [{**IDS, "name": "x"}], "outputs": [{**IDS, "name": "y"}]},
            "inputs[0].shape",
            "is int64 ['batch', 'time']; for task 'transform' it is float32 or float64, [batch, time]",
        ),
        (
            {**CLEANER, "inputs": [tiny.tensor("x", "float32", "batch", "time", 2, 3)]},
            "inputs[0].shape",
            "[batch, time] or [batch, time, values]",
        ),
    ],
)  # fmt: skip
def test_a_task_refuses_what_its_endpoint_cannot_use(members: dict, field: str, message: str) -> None:
    assert refusal(members, field).count(message) == 1


@pytest.mark.parametrize(
    ("members", "field", "message"),
    [
        ({**TOPIC, "signal": {"sample_rate": 8}}, "signal", "must be left out; a text is no signal"),
        ({**LISTENER, "signal": {"sample_rate": 0}}, "signal.sample_rate", "greater than or equal to 1"),
        ({**LISTENER, "signal": {}}, "signal.sample_rate", "Field required"),
        (
            {**STEPPER, "inputs": [IDS], "signal": {"sample_rate": 8}},
            "inputs[0].shape",
            "is int64 ['batch', 'time']; with 'signal' it is float, and a step is a sample or a frame of samples",
        ),
        (
            {**LISTENER, "inputs": [tiny.tensor("x", "float32", "batch", "time", 2, 3)]},
            "inputs[0].shape",
            "a step is a sample or a frame of samples",
        ),
        (
            {**TAGGER, "text": SPELLED},
            "inputs[0].shape",
            "is ['batch', 'time']; with 'text.characters' a step is 5 ids: the token's, and 4 of its characters",
        ),
        ({**SPELLER, "text": TEXT}, "inputs[0].shape", "with 'text' a step is one id"),
        (
            {**SPELLER, "text": {**TEXT, "characters": {"alphabet": "abca", "width": 4}}},
            "text.characters.alphabet",
            "names a character twice",
        ),
        (
            {**SPELLER, "text": {**TEXT, "characters": {"alphabet": "", "width": 4}}},
            "text.characters.alphabet",
            "at least 1 character",
        ),
    ],
)
def test_signals_and_characters_must_fit_the_input(members: dict, field: str, message: str) -> None:
    assert message in refusal(members, field)


NAMED_ALIKE = {"states": [{**tiny.state("logits", 1, "batch", 4), "output": "h_out"}]}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"feedback": {**FEEDBACK, "output": "y"}}, "feedback.output", "'y' is no output that has one float"),
        ({"outputs": [{**LOGITS, "shape": ["batch", "time", 7, 2]}]}, "feedback.output", "at each step"),
        ({"outputs": [{**LOGITS, "dtype": "int64"}]}, "feedback.output", "one float for each id"),
        ({"feedback": {**FEEDBACK, "end": 7}}, "feedback.end", "is 7; 'logits' has the ids 0 to 6"),
        (NAMED_ALIKE, "feedback.output", "'logits' is the name of a state as well; rename the state"),
        (
            {"inputs": [VALUES], "text": None},
            "inputs[0]",
            "is float32 ['batch', 'time']; with 'feedback' a step is one int32 or int64 id",
        ),
        (
            {"inputs": [WITH_CHARACTERS], "text": SPELLED},
            "inputs[0]",
            "with 'feedback' a step is one int32 or int64 id",
        ),
        ({"feedback": {**FEEDBACK, "kind": "dance"}}, "feedback.kind", "Input should be 'categorical' or 'mixture'"),
        ({"feedback": {"output": "logits"}}, "feedback.kind", "Field required"),
        ({"feedback": "logits"}, "feedback", "Input should be a valid dictionary"),
        ({"feedback": {**FEEDBACK, "start": 2**63}}, "feedback.start", "is 9223372036854775808, which is no int64"),
        (
            {"inputs": [{**IDS, "dtype": "int32"}], "feedback": {**FEEDBACK, "start": 2**31}},
            "feedback.start",
            "is 2147483648, which is no int32",
        ),
        ({"feedback": {**FEEDBACK, "start": -1}}, "feedback.start", "greater than or equal to 0"),
    ],
)
def test_feedback_must_name_an_output_whose_numbers_stand_for_the_ids(changes: dict, field: str, message: str) -> None:
    assert message in refusal({**WRITER, **changes}, field)


def refusal(members: dict, field: str) -> str:
    """Return why the manifest is refused; it must be for the member called `field`."""
    with pytest.raises(ValidationError) as refused:
        read(members)
    for error in refused.value.errors():
        cause = error.get("ctx", {}).get("error")
        own = getattr(cause, "field", "")
        place = ".".join(part for part in (*map(str, error["loc"]), own) if part)
        assert place == field
    return str(refused.value)


def test_what_a_session_carries_has_room_for_what_the_last_step_made() -> None:
    members = without(WRITER, "text")
    silent, writer = read(without(members, "feedback")), read(members)
    assert [state.input for state in silent.carried] == ["h"]
    assert [(state.input, state.row_shape) for state in writer.carried] == [("h", (1, 4)), ("logits", (7,))]
    assert writer.state_bytes == silent.state_bytes + 7 * 4
    assert writer.fingerprint != silent.fingerprint


def test_what_a_session_of_texts_carries_has_room_for_the_last_ids() -> None:
    writer, wordless = read(WRITER), without(WRITER, "text")
    assert [(state.input, state.row_shape) for state in writer.carried][1:] == [("logits", (7,)), ("recent_ids", (8,))]
    assert writer.state_bytes == read(wordless).state_bytes + 8 * 8
    named = {**WRITER["states"][0], "input": "recent_ids"}
    assert "recent_ids" in refusal({**WRITER, "states": [named]}, "feedback")
    assert read({**wordless, "states": [named]}).recent is None


@pytest.mark.parametrize(
    ("members", "fingerprint"),
    [
        (CLASSIFIER, "2701826819f6349feeac722b3e71693a"),
        (FORECASTER, "0591868189de43508c5ad5c262e795fe"),
        (STEPPER, "dadc9fc2fcb716249edddc754b832914"),
        (READER, "f44174731c035c64f348adf21410020f"),
        (PLAIN, "625f31f80fcf21f35e101002cc70955c"),
    ],
)
def test_a_manifest_without_the_members_that_came_later_keeps_its_fingerprint(members: dict, fingerprint: str) -> None:
    """Else no token from before could be used; these are what the version before made."""
    assert read(members).fingerprint.hex() == fingerprint


def test_characters_give_their_manifest_a_fingerprint_of_its_own() -> None:
    other = {**SPELLER, "text": {**TEXT, "characters": {"alphabet": "abd", "width": 4}}}
    made: list[Manifest] = [read(members) for members in (SPELLER, other, {**TAGGER, "outputs": [BY_STEP]})]
    assert len({manifest.fingerprint for manifest in made}) == 3


@pytest.mark.parametrize(
    ("width", "word", "spelled"),
    [
        (4, "abc", [2, 3, 4, 0]),
        (4, "abca", [2, 3, 4, 2]),
        (4, "abXcba", [2, 3, 3, 2]),
        (5, "aabbccX", [2, 2, 4, 4, 1]),
        (1, "abc", [4]),
        (4, "é😀", [1, 1, 0, 0]),
    ],
)
def test_a_longer_token_gives_its_first_characters_and_its_last(width: int, word: str, spelled: list[int]) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "abc": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    vocabulary = Vocabulary(tokenizer, 0, Characters(alphabet="abc", width=width))
    for text in (word, [word]):
        (encoding,) = vocabulary.encode([text], marked=False, placed=True)
        assert vocabulary.steps(text, encoding, 9, "int32").tolist() == [[int(word == "abc"), *spelled]]
