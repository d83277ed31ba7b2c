"""The Python client's calls of models that tag, transform, classify and generate: what the service answers, typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sequences
import tiny_writers
import wav
from conftest import Server, ServerFactory

from baton_client import ApiError, AsyncClient, Client, GenerateEvent, StepItem, Tag

MORE = {"model": "generator", "max_steps": 40, "seed": 5}
SOUND = 0.5 * np.sin(np.arange(600) / 7)


def models(root: Path) -> Path:
    tiny_sequences.all_sequences(root)
    tiny_writers.generator(root)
    tiny_writers.ids_alone(root)
    return root


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(models(tmp_path_factory.mktemp("models")), tmp_path_factory.mktemp("state"))
    yield running
    running.stop()


@pytest.fixture
def client(served: Server) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


def answer(served: Server, path: str, **body: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = served.post(path, body).json()["results"]
    return results


# -- labels and values -----------------------------------------------------------------------------------------------


def test_words_have_tags(client: Client, served: Server) -> None:
    texts = ["a good film!", {"id": "b", "text": "bad"}, {"id": "c", "tokens": ["not", "bad"]}]
    batch = client.tag(texts, model="tagger", scores="all")
    results = answer(served, "/v1/tag", model="tagger", inputs=texts, scores="all")
    for found, result in zip(batch, results, strict=True):
        assert (found.id, found.unknown_ratio) == (result["id"], result["unknown_ratio"])
        wanted = [{"start": None, "end": None, **token} for token in result["tokens"]]
        assert found.tokens == [Tag(**token) for token in wanted]
    assert batch[0].tokens[1].text == "good"
    assert (batch[2].tokens[0].start, sorted(batch[2].tokens[0].scores or {})) == (None, sorted(tiny_sequences.TAGS))


def test_series_become_others_and_one_that_fails_fails_alone(client: Client, served: Server) -> None:
    batch = client.transform([np.arange(4.0), {"id": "b", "values": [1, 2]}, ["x"][:0]], model="cleaner")
    assert [error.code for error in batch.errors.values()] == ["empty_input"]
    results = answer(served, "/v1/transform", model="cleaner", items=[{"values": [0, 1, 2, 3]}, {"values": [1, 2]}])
    np.testing.assert_allclose(batch[0].outputs, results[0]["outputs"], atol=1e-6)
    assert (batch[1].id, batch[1].outputs.shape) == ("b", (2,))
    (rows,) = client.transform([np.ones((5, 3))], model="rows")
    assert rows.outputs.shape == (5, 3)


def test_sequences_of_every_kind_are_classified(client: Client, served: Server) -> None:
    content = wav.write(SOUND, 200)
    items = [content, {"id": "b", "audio": bytearray(content)}, SOUND[:20], {"id": "d", "values": SOUND[:20]}]
    batch = client.classify(items, model="listener", scores="all")
    (result,) = answer(served, "/v1/classify", model="listener", items=[{"audio": wav.encode(content)}], scores="all")
    assert [found.id for found in batch] == [None, "b", None, "d"]
    assert (batch[0].label, batch[0].seconds, batch[0].steps) == (result["label"], 3.0, result["steps"])
    for found in batch[:2]:
        assert found.scores == pytest.approx(result["scores"], abs=2e-6)
    assert (batch[2].seconds, batch[2].scores) == (None, batch[3].scores)
    (of_rows,) = client.classify([np.ones((4, 2))], model="rows-kind")
    assert (of_rows.steps, of_rows.tokens) == (4, None)


def test_a_single_thing_is_no_list_of_its_parts(client: Client) -> None:
    with pytest.raises(ValueError, match="texts is of type str; give a list of texts"):
        client.tag("a good film", model="tagger")
    with pytest.raises(ValueError, match="items is of type bytes"):
        client.classify(b"RIFF", model="listener")
    with pytest.raises(ValueError, match=r"series\[0\] is of type str"):
        client.transform(["1 2"], model="cleaner")
    with pytest.raises(ValueError, match=r"items\[0\] is of type str; give a StepItem"):
        client.generate_many(["a"], model="generator")
    with pytest.raises(ValueError, match="NEW"):
        client.generate("a", state=None, model="generator")


# -- generation ------------------------------------------------------------------------------------------------------


def test_what_is_generated_is_what_the_service_answers(client: Client, served: Server) -> None:
    generated = client.generate("abc", n=2, probabilities=True, **MORE)
    (result,) = answer(served, "/v1/generate", items=[{"prompt": "abc"}], n=2, probabilities=True, **MORE)
    for choice, other in zip(generated.choices, result["choices"], strict=True):
        assert (choice.text, choice.ids, choice.seed) == (other["text"], None, other["seed"])
        assert (choice.steps, choice.finish, choice.step) == (40, "length", 43)
        np.testing.assert_allclose(choice.probabilities, other["probabilities"], atol=1e-6)


def test_a_state_goes_on_and_several_prompts_go_together(client: Client) -> None:
    (whole,) = client.generate("abc", **MORE).choices
    (first,) = client.generate("abc", **{**MORE, "max_steps": 15}).choices
    (rest,) = client.generate(state=first.state, **{**MORE, "max_steps": 25}).choices
    assert (first.text or "") + (rest.text or "") == whole.text
    items = [StepItem("abc", id="a"), StepItem(None), StepItem(None, first.state), StepItem("a", "damaged")]
    batch = client.generate_many(items, **MORE)
    assert [error.code for error in batch.errors.values()] == ["state_invalid"]
    assert (batch[0].id, batch[0].choices[0].text) == ("a", whole.text)
    assert batch[2].choices[0].step == first.step + 40
    with pytest.raises(ApiError, match="state_invalid"):
        client.generate(state="damaged", **MORE)
    (ids,) = client.generate([1, 2], model="ids-alone", max_steps=3, seed=1).choices
    assert (ids.text, len(ids.ids or [])) == (None, 3)


def joined(events: list[GenerateEvent], choice: int = 0) -> str:
    return "".join(event.text or "" for event in events if event.choice == choice)


def test_events_joined_are_the_whole_and_the_last_has_the_state(client: Client) -> None:
    whole = client.generate("abc", n=2, **MORE)
    events = [*client.generate_stream("abc", n=2, state_every=10, **MORE)]
    for number, choice in enumerate(whole.choices):
        own = [event for event in events if event.choice == number]
        assert joined(own, number) == choice.text
        assert [event.finish for event in own if event.finish] == ["length"]
        assert [event.step for event in own if event.state] == [13, 23, 33, 43]
        assert (own[-1].finish, own[-1].steps, own[-1].seed) == ("length", 40, choice.seed)
    last = next(event for event in reversed(events) if event.choice == 0)
    assert client.generate(state=last.state or "", **MORE).choices[0].step == 83


@pytest.mark.anyio
async def test_events_come_one_after_the_other_with_asyncio_too(served: Server) -> None:
    async with AsyncClient(served.url) as client:
        (whole,) = (await client.generate("abc", **MORE)).choices
        events = [event async for event in client.generate_stream("abc", **MORE)]
    assert joined(events) == whole.text


def test_an_error_is_raised_in_the_place_of_the_events(client: Client) -> None:
    with pytest.raises(ApiError, match="state_invalid") as refused:
        next(client.generate_stream("abc", state="damaged", **MORE))
    assert refused.value.status == 422
    with pytest.raises(ApiError, match="skeed"):
        next(client.generate_stream("abc", skeed=1))


@pytest.mark.parametrize("leave", ["close", "with", "forget"])
def test_the_service_stops_when_the_events_are_left(tmp_path: Path, start_server: ServerFactory, leave: str) -> None:
    root = tmp_path / "models"
    tiny_writers.generator(root)
    server = start_server(root, tmp_path / "state", BATON_MAX_STEPS="1000000")
    with Client(server.url) as client:
        start = server.mark()
        events = client.generate_stream("abc", model="generator", max_steps=1_000_000)
        assert next(events).choice == 0
        if leave == "close":
            events.close()
            events.close()
            assert list(events) == []
        elif leave == "with":
            with events:
                next(events)
        else:
            del events
        line = server.lines_since(start, until="POST /v1/generate")[-1]
        assert " 499 " in line
        assert json.loads(server.client.get("/v1/models").text)  # and it answers others
