"""Models of other kinds than the first four: a second text classifier, a stepping model of characters, and one with
two outputs beside a constant vector; each through a real server, over every way that leads to it. And which of them a
request means that names none.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tiny
import tiny_kinds
from conftest import Server
from streams import Stream

from baton_client import Client

pytestmark = pytest.mark.old_cpu

CLOSE = 1e-5
TEXT = "ab\n\n A?\tbB  a\n"
ROWS, SINGLE = [[0.5], [-1.0], [2.0], [0.25]], [0.5, -1.0, 2.0, 0.25]
NUMBERS = np.random.default_rng(8).normal(size=12).astype(np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    for write in (tiny.sentiment, tiny_kinds.spam, tiny_kinds.writer, tiny_kinds.watcher):
        write(models)
    tiny_kinds.watcher(models, name="plain-watcher", constants={"offsets": [0, 0, 0]})
    server = Server(models, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One model of each task, none called like it; those of numbers take rows of one."""
    models = tmp_path_factory.mktemp("models")
    tiny_kinds.spam(models)
    tiny_kinds.weather(models, channels=1)
    tiny_kinds.watcher(models, in_rows=True)
    server = Server(models, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


def assert_close(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, rows in theirs.items():
        np.testing.assert_allclose(ours[name], rows, atol=CLOSE)


def step(server: Server, model: str, **item: object) -> dict:
    (result,) = server.post("/v1/step", {"model": model, "items": [item], "return": "all"}).json()["results"]
    return result


def test_a_second_classifier_answers_with_its_own_labels_and_no_polarity(served: Server) -> None:
    texts = ["good", "a very bad film !", "not good"]
    body = {"model": "spam", "inputs": texts, "scores": "all"}
    answer = served.post("/v1/sentiment", body).json()
    theirs = served.post("/v1/sentiment", {"inputs": texts, "scores": "all"}).json()["results"]
    assert (answer["model"], answer["summary"]) == ("spam", {"ok": 3, "failed": 0})
    for result, other in zip(answer["results"], theirs, strict=True):
        assert "polarity" not in result
        assert list(result["scores"]) == ["ham", "spam"]
        assert result["label"] == max(result["scores"], key=result["scores"].__getitem__)
        assert [*result["scores"].values()] == pytest.approx([*other["scores"].values()], abs=CLOSE)
    (top,) = served.post("/v1/sentiment", {"model": "spam", "inputs": ["good"]}).json()["results"]
    assert not {"polarity", "scores"} & top.keys()


def test_the_client_tells_of_no_polarity_where_there_is_none(served: Server) -> None:
    with Client(str(served.url)) as client:
        (result,) = client.sentiment(["good"], model="spam", scores="all")
    assert (result.polarity, set(result.scores or {})) == (None, {"ham", "spam"})


def test_both_classifiers_are_listed_where_a_model_has_another_task(served: Server) -> None:
    error = served.post("/v1/sentiment", {"model": "writer", "inputs": ["good"]}).json()["error"]
    assert (error["code"], error["field"]) == ("wrong_task", "model")
    assert "for 'sentiment' there is sentiment, spam" in error["message"]


def test_every_character_is_a_step_white_space_and_newlines_too(served: Server) -> None:
    result = step(served, "writer", text=TEXT)
    assert (result["tokens"], result["step"]) == (list(TEXT), len(TEXT))
    probabilities = np.array(result["outputs"]["probabilities"])
    assert probabilities.shape == (len(TEXT), len(tiny_kinds.CHARACTERS))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=CLOSE)


@pytest.mark.parametrize("cuts", [[1] * len(TEXT), [2, 2, 10], [4, 1, 9]])
def test_a_text_in_pieces_is_the_text_wherever_it_is_cut(served: Server, cuts: list[int]) -> None:
    """Some pieces begin or end with white space, or hold nothing else."""
    whole, item, done, made = step(served, "writer", text=TEXT), {}, 0, []
    with Stream(served, "writer", **{"return": "all"}) as stream:
        for cut in cuts:
            piece = TEXT[done : done + cut]
            done += cut
            over_step, over_stream = step(served, "writer", text=piece, **item), stream.ask(text=piece)
            assert over_step["tokens"] == over_stream["tokens"] == list(piece)
            outputs = [part["outputs"]["probabilities"] for part in (over_step, over_stream)]
            np.testing.assert_allclose(*outputs, atol=CLOSE)
            made += outputs[0]
            item = {"state": over_step["state"]}
    assert done == len(TEXT)
    np.testing.assert_allclose(made, whole["outputs"]["probabilities"], atol=CLOSE)


@pytest.mark.parametrize("text", [" ", "\n", "\t\n  \n"])
def test_a_text_of_white_space_alone_is_read_where_the_tokenizer_reads_it(served: Server, text: str) -> None:
    assert step(served, "writer", text=text)["tokens"] == list(text)
    with Client(str(served.url)) as client, client.stream("writer") as stream:
        assert stream.step(text).tokens == list(text)


def test_a_character_that_the_model_does_not_know_is_the_unknown_one_and_no_text_is_refused(served: Server) -> None:
    assert step(served, "writer", text="a\u00e9b")["tokens"] == ["a", "[UNK]", "b"]
    assert step(served, "writer", text="")["error"]["code"] == "empty_input"


def test_texts_of_any_length_share_a_request_and_are_answered_as_alone(served: Server) -> None:
    texts = [TEXT, "\n", TEXT[3:9], "a"]
    body = {"model": "writer", "items": [{"text": text} for text in texts], "return": "all"}
    for text, result in zip(texts, served.post("/v1/step", body).json()["results"], strict=True):
        alone = step(served, "writer", text=text)["outputs"]["probabilities"]
        np.testing.assert_allclose(result["outputs"]["probabilities"], alone, atol=CLOSE)


def test_an_output_of_one_number_a_step_stands_beside_the_others(served: Server) -> None:
    result = step(served, "watcher", values=NUMBERS.tolist())
    assert {name: np.shape(rows) for name, rows in result["outputs"].items()} == {
        "quantiles": (12, 3),
        "anomaly": (12,),
    }
    body = {"model": "watcher", "items": [{"values": NUMBERS.tolist()}]}
    (last,) = served.post("/v1/step", body).json()["results"]
    assert last["outputs"] == {name: rows[-1] for name, rows in result["outputs"].items()}


def test_a_constant_vector_moves_each_quantile_by_its_own_entry(served: Server) -> None:
    moved, plain = (step(served, name, values=NUMBERS.tolist())["outputs"] for name in ("watcher", "plain-watcher"))
    apart = np.subtract(moved["quantiles"], plain["quantiles"])
    np.testing.assert_allclose(apart, np.broadcast_to([-0.5, 0, 2], (12, 3)), atol=CLOSE)
    np.testing.assert_allclose(moved["anomaly"], plain["anomaly"], atol=CLOSE)


def test_both_outputs_come_over_a_stream_in_text_and_in_binary_frames(served: Server) -> None:
    whole = step(served, "watcher", values=NUMBERS.tolist())["outputs"]
    flat = np.column_stack([whole["quantiles"], whole["anomaly"]])
    with Stream(served, "watcher", **{"return": "all"}) as stream:
        assert [output["shape"] for output in stream.opened["outputs"]] == [[3], []]
        np.testing.assert_allclose(stream.step(NUMBERS[:5], width=4), flat[:5], atol=CLOSE)
        answer = stream.ask(values=NUMBERS[5:7].tolist())["outputs"]
        np.testing.assert_allclose(answer["anomaly"], whole["anomaly"][5:7], atol=CLOSE)
        np.testing.assert_allclose(stream.step(NUMBERS[7:], width=4), flat[7:], atol=CLOSE)
    with Stream(served, "watcher") as stream:
        np.testing.assert_allclose(stream.step(NUMBERS, width=4), flat[-1:], atol=CLOSE)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("returns", ["last", "all"])
def test_the_client_s_streams_give_both_outputs_in_their_shapes(served: Server, binary: bool, returns: str) -> None:
    whole = step(served, "watcher", values=NUMBERS.tolist())["outputs"]
    with Client(str(served.url)) as client, client.stream("watcher", binary=binary, returns=returns) as stream:
        made = [stream.step(part).outputs for part in (NUMBERS[:4], NUMBERS[4:])]
    for name, rows in whole.items():
        due = [rows[:4], rows[4:]] if returns == "all" else [rows[3], rows[-1]]
        for part, expected in zip(made, due, strict=True):
            assert part[name].shape == np.shape(expected)
            np.testing.assert_allclose(part[name], expected, atol=CLOSE)


def test_a_request_without_model_takes_the_only_one_of_its_task(alone: Server) -> None:
    asked = {
        "/v1/sentiment": {"inputs": ["good"]},
        "/v1/forecast": {"series": [{"values": ROWS}], "horizon": 1},
        "/v1/step": {"items": [{"inputs": ROWS}]},
    }
    answers = {path: alone.post(path, body).json() for path, body in asked.items()}
    assert [answer["model"] for answer in answers.values()] == ["spam", "weather", "watcher"]
    assert all(answer["summary"]["ok"] == 1 for answer in answers.values())
    (first,) = answers["/v1/step"]["results"]
    items = [{"state": first["state"], "values": [1]}]
    assert alone.post("/v1/step", {"items": items}).json()["results"][0]["step"] == 5
    moved = {"items": [{"state": first["state"]}], "hold": "server"}
    assert alone.post("/v1/state", moved).json()["model"] == "watcher"
    with Stream(alone, first="{}") as stream:
        assert stream.frame()["model"] == "watcher"


def test_of_several_models_the_one_called_like_the_task_is_taken(served: Server) -> None:
    assert served.post("/v1/sentiment", {"inputs": ["good"]}).json()["model"] == "sentiment"


def test_a_request_that_could_mean_several_models_is_refused_with_their_names(served: Server) -> None:
    answer = served.post("/v1/step", {"items": [{"values": SINGLE}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "invalid_request", "model")
    assert error["message"] == "name the model: for task 'step' there are plain-watcher, watcher, writer"
    with Stream(served, first="{}") as stream:
        refused = stream.frame()
    assert (refused["final"], refused["error"]["message"]) == (True, error["message"])


def test_a_request_for_a_task_without_model_is_refused(served: Server) -> None:
    answer = served.post("/v1/forecast", {"series": [{"values": SINGLE}], "horizon": 1})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (404, "unknown_model", "model")
    assert error["message"] == "this service has no model for task 'forecast'"


@pytest.mark.parametrize("server_name", ["alone", "served"])
def test_steps_of_one_number_are_numbers_or_rows_of_one(server_name: str, request: pytest.FixtureRequest) -> None:
    """The model of `alone` takes rows, that of `served` numbers."""
    server: Server = request.getfixturevalue(server_name)
    items = [{"inputs": ROWS}, {"values": SINGLE}, {"inputs": [[1], [2, 3]]}, {"text": "good"}]
    rows, numbers, ragged, text = server.post("/v1/step", {"model": "watcher", "items": items}).json()["results"]
    assert_close(numbers["outputs"], rows["outputs"])
    assert (ragged["error"]["code"], ragged["error"]["field"]) == ("ragged_inputs", "items[2].inputs[1]")
    assert "takes inputs or values" in text["error"]["message"]
    with Stream(server, "watcher") as stream:
        stream.send(inputs=ROWS)
        assert_close(stream.frame()["outputs"], rows["outputs"])


def test_a_forecaster_of_one_channel_takes_numbers_and_one_of_numbers_rows_of_one(
    alone: Server, server: Server
) -> None:
    gappy = [{"values": [*ROWS, [None]]}, {"values": [*SINGLE, None]}, {"values": [*ROWS, [1, 2]]}]
    for one in (alone, server):
        body = {"series": gappy, "horizon": 2, "missing": "ffill"}
        rows, numbers, ragged = one.post("/v1/forecast", body).json()["results"]
        assert_close({"mean": rows["mean"], **rows["quantiles"]}, {"mean": numbers["mean"], **numbers["quantiles"]})
        assert rows["warnings"] == numbers["warnings"] == ["1 missing values filled (ffill)"]
        assert (ragged["error"]["code"], ragged["error"]["field"]) == ("ragged_inputs", "series[2].values[4]")
