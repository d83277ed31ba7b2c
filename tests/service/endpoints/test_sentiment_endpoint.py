"""POST /v1/sentiment through a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Server

TEXTS = ["good", "a very good film !", "not good", "bad bad film", "A GOOD film", "zzz unknown film"]
CLOSE = 1e-5  # batching changes float32 sums only in their order


def test_an_answer_has_the_documented_members(server: Server) -> None:
    answer = server.post("/v1/sentiment", {"inputs": ["a good xyzzy", {"id": "i7", "text": "bad"}], "scores": "all"})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["model"], body["version"]) == ("sentiment", "1")
    first, second = body["results"]
    assert (first["index"], first["id"], second["index"], second["id"]) == (0, None, 1, "i7")
    assert first["label"] in ("negative", "positive")
    assert first["score"] == max(first["scores"].values())
    assert sum(first["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert first["polarity"] == pytest.approx(first["scores"]["positive"] - first["scores"]["negative"], abs=1e-5)
    assert (first["tokens"], first["truncated"], first["unknown_ratio"]) == (3, False, pytest.approx(1 / 3, abs=1e-4))
    assert body["summary"] == {"ok": 2, "failed": 0}
    assert (body["usage"]["rows"], body["usage"]["steps"]) == (2, 4)
    assert set(body["timing_ms"]) == {"queue", "run", "total"}


def test_a_batch_answers_as_its_texts_do_alone(server: Server) -> None:
    together = server.post("/v1/sentiment", {"inputs": TEXTS, "scores": "all"}).json()["results"]
    for text, result in zip(TEXTS, together, strict=True):
        (alone,) = server.post("/v1/sentiment", {"inputs": [text], "scores": "all"}).json()["results"]
        assert alone["scores"] == pytest.approx(result["scores"], abs=CLOSE)


def test_concurrent_requests_share_runs_and_never_mix(server: Server) -> None:
    alone = {t: server.post("/v1/sentiment", {"inputs": [t]}).json()["results"][0]["polarity"] for t in TEXTS}
    asked = [TEXTS[n % len(TEXTS)] for n in range(200)]
    runs = server.metric("baton_batch_rows_count", "model", "sentiment")
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda text: server.post("/v1/sentiment", {"inputs": [text]}).json(), asked))
    for text, answer in zip(asked, answers, strict=True):
        assert answer["results"][0]["polarity"] == pytest.approx(alone[text], abs=CLOSE)
    assert server.metric("baton_batch_rows_count", "model", "sentiment") - runs < len(asked)


def test_case_does_not_matter_where_the_tokenizer_says_so(server: Server) -> None:
    lower, upper = server.post("/v1/sentiment", {"inputs": ["a good film", "A Good FILM"]}).json()["results"]
    assert lower["polarity"] == upper["polarity"]


def test_a_long_text_is_cut_or_refused_as_asked(server: Server) -> None:
    long = "good " * 17
    (cut,) = server.post("/v1/sentiment", {"inputs": [long]}).json()["results"]
    assert (cut["tokens"], cut["truncated"]) == (16, True)
    refused = server.post("/v1/sentiment", {"inputs": [long, "good"], "truncate": "error"}).json()
    assert refused["results"][0]["error"] == {
        "code": "item_too_large",
        "message": "the text has 17 tokens; at most 16",
        "field": "inputs[0]",
        "limit": 16,
    }
    assert refused["results"][1]["tokens"] == 1


@pytest.mark.parametrize(
    ("item", "code", "field"),
    [
        ("", "empty_input", "inputs[1]"),
        (" \n", "empty_input", "inputs[1]"),
        ({"text": ""}, "empty_input", "inputs[1].text"),
        (5, "invalid_request", "inputs[1]"),
        (None, "invalid_request", "inputs[1]"),
        (["good", "bad"], "invalid_request", "inputs[1]"),
        ({"id": "x"}, "invalid_request", "inputs[1].text"),
        ({"text": 5}, "invalid_request", "inputs[1].text"),
        ({"text": "good", "txt": "bad"}, "invalid_request", "inputs[1].txt"),
        ({"text": "good", "id": "x" * 129}, "invalid_request", "inputs[1].id"),
        ("x" * 100_001, "item_too_large", "inputs[1]"),
    ],
)
def test_a_bad_item_fails_alone(server: Server, item: object, code: str, field: str) -> None:
    answer = server.post("/v1/sentiment", {"inputs": ["good", item, {"id": "last", "text": "bad"}]})
    body = answer.json()
    assert answer.status_code == 200
    assert body["summary"] == {"ok": 2, "failed": 1}
    assert [result["index"] for result in body["results"]] == [0, 1, 2]
    assert (body["results"][1]["error"]["code"], body["results"][1]["error"]["field"]) == (code, field)
    assert body["results"][2]["id"] == "last"
    assert "label" in body["results"][0]


def test_a_failed_item_keeps_its_id(server: Server) -> None:
    body = server.post("/v1/sentiment", {"inputs": ["good", {"id": "mine", "text": 5}]}).json()
    assert body["results"][1]["id"] == "mine"


def test_when_every_item_fails_the_status_is_the_first_one_s(server: Server) -> None:
    answer = server.post("/v1/sentiment", {"inputs": ["", "x" * 100_001]})
    body = answer.json()
    assert answer.status_code == 422
    assert [result["error"]["code"] for result in body["results"]] == ["empty_input", "item_too_large"]
    assert body["error"]["code"] == "empty_input"
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
