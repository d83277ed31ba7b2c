"""Sessions that begin from a condition: by hand, by generation, in tokens and held, here and on another replica."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_conditions
from conftest import TOKEN_KEYS, Server, ServerFactory
from generating import error_of, stream
from streams import Stream

TRANSLATE = {"model": "translate"}
VECTOR = {"vector": [0.5, -1.0, 2.0, 0.0, 1.5]}
ROWS = {"inputs": [[1.0, 0.5, -1.0], [0.0, 2.0, 1.0], [-1.0, 0.0, 0.5]]}


def step(server: Server, model: str, *items: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    answer = server.post("/v1/step", {"model": model, "items": items, "return": "all", **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def write(server: Server, item: dict[str, Any], model: str = "translate", **options: Any) -> dict[str, Any]:
    """Return the only choice, the likeliest letter each time."""
    body = {"model": model, "items": [item], "temperature": 0, **options}
    answer = server.post("/v1/generate", body)
    assert answer.status_code == 200, answer.text
    ((choice,),) = [result["choices"] for result in answer.json()["results"]]
    return choice


def test_a_session_stepped_by_hand_is_the_whole_with_the_models_first_id_before_it(conditioned: Server) -> None:
    (whole,) = step(conditioned, "translate", {"begin": {"text": "abc de"}, "text": "gfab"})
    assert (whole["tokens"], whole["step"]) == (["\n", *"gfab"], 5)
    (begun,) = step(conditioned, "translate", {"begin": {"text": "abc de"}})
    assert (begun["tokens"], begun["step"]) == (["\n"], 1)
    logits, token = begun["outputs"]["logits"], begun["state"]
    for letter in "gfab":
        (more,) = step(conditioned, "translate", {"state": token, "text": letter})
        logits, token = logits + more["outputs"]["logits"], more["state"]
    np.testing.assert_allclose(logits, whole["outputs"]["logits"], atol=1e-5)


def test_what_is_attended_to_is_as_long_as_each_sessions_condition(conditioned: Server) -> None:
    texts = ["a", "abc de", "gfe"]
    together = step(conditioned, "translate", *({"begin": {"text": text}, "text": "ab"} for text in texts))
    for text, result in zip(texts, together, strict=True):
        (alone,) = step(conditioned, "translate", {"begin": {"text": text}, "text": "ab"})
        assert np.shape(result["outputs"]["attention"]) == (3, len(text))
        np.testing.assert_allclose(result["outputs"]["logits"], alone["outputs"]["logits"], atol=1e-5)


def test_a_text_that_the_model_cannot_read_well_is_told_of_wherever_a_session_begins(conditioned: Server) -> None:
    """Unknown letters, and more than in training: in steps, choices, searches, events and translations alike."""
    known, doubtful = {"text": "abc de"}, {"text": "ab!?" + "a" * 17}
    told = [
        "unknown to the model: 2 of the text's 21 tokens",
        "the text has 21 tokens; the longest that the model was trained on has 16",
    ]
    stepped = step(conditioned, "translate", {"begin": known}, {"begin": doubtful})
    assert [result.get("warnings") for result in stepped] == [None, told]
    assert "warnings" not in write(conditioned, {"condition": known}, max_steps=2)
    assert write(conditioned, {"condition": doubtful}, max_steps=2)["warnings"] == told
    body = {"items": [{"condition": doubtful}], **TRANSLATE, "max_steps": 2}
    assert conditioned.post("/v1/generate", {**body, "beams": 2}).json()["results"][0]["choices"][0]["warnings"] == told
    assert [
        event["warnings"]
        for event in stream(conditioned, {"condition": doubtful}, max_steps=2, **TRANSLATE)
        if "finish" in event
    ] == [told]
    assert conditioned.post("/v1/translate", {"inputs": [doubtful["text"]]}).json()["results"][0]["warnings"] == told


def test_generation_from_a_condition_is_a_translation_by_one_beam(conditioned: Server) -> None:
    for text in ("abc", "gfe de a"):
        translated = conditioned.post("/v1/translate", {"inputs": [text], "beams": 1}).json()["results"][0]
        choice = write(conditioned, {"condition": {"text": text}}, max_steps=16)
        assert choice["text"].removesuffix(".") == translated["text"]


def test_a_prompt_is_what_the_translation_begins_with(conditioned: Server) -> None:
    whole = write(conditioned, {"condition": {"text": "abc de"}}, max_steps=8)
    begin = whole["text"][:3]
    rest = write(conditioned, {"condition": {"text": "abc de"}, "prompt": begin}, max_steps=5)
    assert begin + rest["text"] == whole["text"]


@pytest.mark.parametrize("hold", ["client", "server"])
def test_a_session_goes_on_elsewhere_after_a_crash_and_forks(
    conditioned_models: Path, tmp_path: Path, start_server: ServerFactory, hold: str
) -> None:
    settings = {"BATON_TOKEN_KEYS": TOKEN_KEYS}
    one = start_server(conditioned_models, tmp_path, **settings)
    whole = write(one, {"condition": {"text": "gfe de"}}, max_steps=12)
    part = write(one, {"condition": {"text": "gfe de"}}, max_steps=5, hold=hold)
    assert part.get("held", False) is (hold == "server")
    one.kill()
    other = start_server(conditioned_models, tmp_path, **settings)
    for _ in range(2):  # the same state twice is a fork
        rest = write(other, {"state": part["state"]}, max_steps=7)
        assert part["text"] + rest["text"] == whole["text"]


def test_a_state_of_half_precision_keeps_its_memory(conditioned: Server) -> None:
    item = {"begin": {"text": "abc de"}, "text": "g"}
    (exact,), (halved,) = (step(conditioned, "translate", item, precision=each) for each in ("float32", "float16"))
    assert len(halved["state"]) < 0.8 * len(exact["state"])
    (one,), (other,) = (
        step(conditioned, "translate", {**each, "text": "fa"}) for each in map(state_of, (exact, halved))
    )
    np.testing.assert_allclose(one["outputs"]["logits"], other["outputs"]["logits"], atol=5e-3)


def state_of(result: dict[str, Any]) -> dict[str, Any]:
    return {"state": result["state"]}


def test_a_vector_stays_what_the_session_began_from(conditioned: Server) -> None:
    (whole,) = step(conditioned, "captioner", {"begin": VECTOR, "text": "abc"})
    (first,) = step(conditioned, "captioner", {"begin": VECTOR, "text": "ab"})
    (last,) = step(conditioned, "captioner", {"state": first["state"], "text": "c"})
    np.testing.assert_allclose(last["outputs"]["logits"][0], whole["outputs"]["logits"][-1], atol=1e-5)
    (other,) = step(conditioned, "captioner", {"begin": {"vector": [0.0] * 5}, "text": "abc"})
    assert np.abs(np.subtract(other["outputs"]["logits"], whole["outputs"]["logits"])).max() > 0.1


def test_a_model_without_a_time_axis_hands_on_the_memory_that_it_changes(conditioned: Server) -> None:
    steps = [[0.5, -0.5], [1.0, 0.0], [0.0, 2.0]]
    short = {"inputs": ROWS["inputs"][:1]}
    (whole, brief) = step(
        conditioned, "rows-reader", {"begin": ROWS, "inputs": steps}, {"begin": short, "inputs": steps[:2]}
    )
    assert np.shape(brief["outputs"]["weights"]) == (2, 1)
    (first,) = step(conditioned, "rows-reader", {"begin": ROWS, "inputs": steps[:1]})
    (rest,) = step(conditioned, "rows-reader", {**state_of(first), "inputs": steps[1:]})
    for name, made in whole["outputs"].items():
        np.testing.assert_allclose(first["outputs"][name] + rest["outputs"][name], made, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "item", "code", "field"),
    [
        ("translate", {"text": "abc"}, "invalid_request", "items[0]"),
        ("translate", {"begin": {}, "text": "a"}, "invalid_request", "items[0].begin.text"),
        ("translate", {"begin": {"vector": [1.0]}}, "invalid_request", "items[0].begin.vector"),
        ("translate", {"begin": {"text": ""}}, "empty_input", "items[0].begin.text"),
        ("translate", {"begin": {"text": "a"}, "inputs": [[1.0]]}, "invalid_request", "items[0].inputs"),
        ("captioner", {"begin": {"vector": [1.0, 2.0]}}, "ragged_inputs", "items[0].begin.vector"),
        ("captioner", {"begin": {"vector": [1e39] * 5}}, "not_finite", "items[0].begin.vector"),
        ("rows-reader", {"begin": ROWS}, "invalid_request", "items[0].inputs"),
        (
            "rows-reader",
            {"begin": {"inputs": [[1.0]]}, "inputs": [[1.0, 2.0]]},
            "ragged_inputs",
            "items[0].begin.inputs[0]",
        ),
        ("generator", {"begin": {"text": "abc"}, "text": "a"}, "wrong_task", "items[0].begin"),
    ],
)
def test_a_condition_that_does_not_suit_is_refused(
    conditioned: Server, model: str, item: dict[str, Any], code: str, field: str
) -> None:
    answer = conditioned.post("/v1/step", {"model": model, "items": [item]})
    assert error_of(answer)[1:] == (code, field), answer.text


def test_a_condition_and_a_state_do_not_go_together(conditioned: Server) -> None:
    (begun,) = step(conditioned, "translate", {"begin": {"text": "abc"}})
    answer = conditioned.post("/v1/step", {**TRANSLATE, "items": [{**state_of(begun), "begin": {"text": "abc"}}]})
    assert error_of(answer)[1:] == ("invalid_request", "items[0].begin")


def test_a_session_that_lacks_its_condition_begins_nowhere(conditioned: Server) -> None:
    generated = conditioned.post("/v1/generate", {**TRANSLATE, "items": [{"prompt": "abc"}]})
    assert error_of(generated)[1] == "invalid_request"
    assert "begin from a condition" in generated.json()["error"]["message"]
    ids = {"name": "ids", "datatype": "INT32", "shape": [1, 1], "data": [1]}
    inferred = conditioned.post("/v2/models/translate/infer", {"inputs": [ids]})
    assert "begin from a condition" in inferred.text


def search(server: Server, item: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    answer = server.post("/v1/generate", {**TRANSLATE, "items": [item], **options})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return result["choices"]


def test_the_best_of_a_search_are_the_translations(conditioned: Server) -> None:
    options = {"beams": 4, "length_penalty": 2.0}
    asked = {"inputs": ["abc de"], "alternatives": 4, **options}
    (best,) = conditioned.post("/v1/translate", asked).json()["results"]
    choices = search(conditioned, {"condition": {"text": "abc de"}}, n=4, max_steps=16, **options)
    found = [(each["text"], each["score"], each["finish"]) for each in (best, *best["alternatives"])]
    assert [(each["text"], each["score"], each["finish"]) for each in choices] == found


def test_each_beam_is_a_fork_that_goes_on_elsewhere_after_a_crash(
    conditioned_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    settings, goes_on = {"BATON_TOKEN_KEYS": TOKEN_KEYS}, {"beams": 4, "n": 2, "max_steps": 6}
    one = start_server(conditioned_models, tmp_path, **settings)
    beams = search(one, {"condition": {"text": "gfe de"}}, beams=4, n=4, max_steps=4)
    assert len({each["text"] for each in beams}) == 4
    due = [search(one, {"state": each["state"]}, **goes_on) for each in beams]
    one.kill()
    other = start_server(conditioned_models, tmp_path, **settings)
    for each, there in zip(beams, due, strict=True):
        here = search(other, {"state": each["state"]}, **goes_on)
        assert [(c["text"], c["score"], c["step"]) for c in here] == [(c["text"], c["score"], c["step"]) for c in there]


def test_a_search_counts_the_steps_of_its_state(conditioned: Server) -> None:
    for each in search(conditioned, {"condition": {"text": "abc"}, "prompt": "ab"}, beams=3, n=3, max_steps=5):
        assert (each["steps"], each["step"]) == (len(each["text"]), 3 + len(each["text"]))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"beams": 2, "n": 3}, "n"),
        ({"beams": 2, "temperature": 0}, "temperature"),
        ({"beams": 2, "stream": True}, "stream"),
        ({"length_penalty": 1}, "length_penalty"),
    ],
)
def test_members_of_drawing_and_of_searching_do_not_mix(
    conditioned: Server, options: dict[str, Any], field: str
) -> None:
    answer = conditioned.post("/v1/generate", {**TRANSLATE, "items": [{"condition": {"text": "abc"}}], **options})
    assert error_of(answer)[1:] == ("invalid_request", field)


def test_sessions_share_runs_whichever_of_them_ends_first(conditioned: Server) -> None:
    steps = [[0.5, -0.5], [1.0, 0.0], [0.0, 2.0]]
    for lengths in ((1, 2, 3), (3, 2, 1), (2, 2, 2)):
        items = [
            {"begin": {"inputs": ROWS["inputs"][:entries]}, "inputs": steps[:length]}
            for entries, length in zip((3, 2, 1), lengths, strict=True)
        ]
        together = step(conditioned, "rows-reader", *items)
        for item, result in zip(items, together, strict=True):
            (alone,) = step(conditioned, "rows-reader", item)
            for name, made in alone["outputs"].items():
                np.testing.assert_allclose(result["outputs"][name], made, atol=1e-5)
    answer = conditioned.post("/v1/step", {"model": "rows-reader", "items": items})
    assert answer.json()["usage"]["batch_rows"] == 3  # of equal lengths: others share a run where that is cheaper here


def test_states_of_conditions_change_hands_and_go_on_in_streams_and_as_tensors(conditioned: Server) -> None:
    (begun,) = step(conditioned, "rows-reader", {"begin": ROWS, "inputs": [[0.5, -0.5]]})
    (due,) = step(conditioned, "rows-reader", {**state_of(begun), "inputs": [[1.0, 0.0]]})
    held = conditioned.post("/v1/state", {"model": "rows-reader", "items": [state_of(begun)], "hold": "server"})
    (moved,) = held.json()["results"]
    assert moved["held"]
    (after,) = step(conditioned, "rows-reader", {**state_of(moved), "inputs": [[1.0, 0.0]]})
    assert after["outputs"] == due["outputs"]
    with Stream(conditioned, "rows-reader", **state_of(begun)) as stream:
        assert [output["shape"] for output in stream.opened["outputs"]] == [[2], [3]]
        assert stream.ask(inputs=[[1.0, 0.0]])["outputs"]["y"] == due["outputs"]["y"][-1]


def test_tensors_of_sessions_of_different_length_are_joined(conditioned: Server) -> None:
    short = {"inputs": ROWS["inputs"][:1]}
    begun = step(conditioned, "rows-reader", *({"begin": each, "inputs": [[0.5, -0.5]]} for each in (ROWS, short)))
    due = [step(conditioned, "rows-reader", {**state_of(each), "inputs": [[1.0, 0.0]]})[0]["outputs"] for each in begun]
    x = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 0.0, 1.0, 0.0]}
    tokens = {"name": "state_token", "datatype": "BYTES", "shape": [2], "data": [each["state"] for each in begun]}
    answer = conditioned.post("/v2/models/rows-reader/infer", {"inputs": [x, tokens]})
    assert answer.status_code == 200, answer.text
    weights = next(output for output in answer.json()["outputs"] if output["name"] == "weights")
    made = np.reshape(weights["data"], weights["shape"])
    np.testing.assert_allclose(made[0], due[0]["weights"][-1], atol=1e-5)
    np.testing.assert_allclose(made[1], [*due[1]["weights"][-1], 0, 0], atol=1e-5)


def test_a_search_takes_no_step_that_the_session_may_not(
    conditioned_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(conditioned_models, tmp_path, BATON_MAX_SESSION_STEPS="6")
    (best,) = search(server, {"condition": {"text": "abc"}, "prompt": "abc"}, beams=2, n=1, max_steps=16)
    assert best["step"] <= 6
    last = write(server, {"condition": {"text": "abc"}}, max_steps=5)
    answer = server.post("/v1/generate", {**TRANSLATE, "items": [state_of(last)], "beams": 2})
    assert (last["step"], error_of(answer)[1]) == (6, "session_too_long")
    server.stop()


def test_nothing_is_drawn_before_a_first_step_where_the_model_names_no_id_to_start_with(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny_conditions.translator(tmp_path / "models", task="step", feedback={**tiny_conditions.LOGITS, "start": None})
    server = start_server(tmp_path / "models", tmp_path / "state")
    answer = server.post("/v1/generate", {"items": [{"condition": {"text": "abc"}}]})
    assert "nothing to begin with" in answer.json()["error"]["message"]
    assert write(server, {"condition": {"text": "abc"}, "prompt": "a"}, max_steps=3)["step"] == 4
    server.stop()


def test_a_start_graph_has_metrics_of_its_own(conditioned: Server) -> None:
    before = conditioned.metric("baton_run_seconds_count", "model", "translate/start")
    step(conditioned, "translate", {"begin": {"text": "abc"}}, {"begin": {"text": "ab"}})
    assert conditioned.metric("baton_run_seconds_count", "model", "translate/start") == before + 1
    assert conditioned.metric("baton_run_threads", "model", "translate/start") >= 1
