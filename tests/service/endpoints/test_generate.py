"""POST /v1/generate: what is drawn, by which seed, where it stops, and that it goes on as if it had never stopped."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_writers
from conftest import TOKEN_KEYS, Server, ServerFactory
from generating import ask, error_of, greedy_by_hand, one, same, stream

PROMPT = {"prompt": "abc de"}


def test_greedy_is_the_loop_of_likeliest_letters(writers: Server, writer_models: Path) -> None:
    choice = one(writers, PROMPT, temperature=0, max_steps=20)
    assert choice["text"] == greedy_by_hand(writer_models / "generator" / "1", PROMPT["prompt"], 20)
    assert (choice["steps"], choice["step"], choice["finish"]) == (20, 26, "length")


def test_the_logits_of_a_model_are_drawn_from_as_its_probabilities(
    writer_models: Path, tmp_path: Path, start_server: ServerFactory, writers: Server
) -> None:
    tiny_writers.generator(tmp_path / "models", form="logits")
    server = start_server(tmp_path / "models", tmp_path / "state")
    options: dict[str, Any] = {"seed": 5, "temperature": 0.7, "top_p": 0.9, "probabilities": True}
    logits, probabilities = (one(each, PROMPT, **options) for each in (server, writers))
    assert same(logits, probabilities)
    assert logits["probabilities"] == pytest.approx(probabilities["probabilities"], rel=1e-5)


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(writers: Server) -> None:
    first, again, other = (one(writers, PROMPT, seed=seed) for seed in (7, 7, 8))
    assert same(first, again)
    assert first["text"] != other["text"]


def test_the_service_draws_a_seed_where_none_is_given_and_says_it(writers: Server) -> None:
    first, other = one(writers, PROMPT), one(writers, PROMPT)
    assert first["seed"] != other["seed"]
    assert same(first, one(writers, PROMPT, seed=first["seed"]))


def mixed_requests() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return 32 requests of different beginnings, lengths and ways to draw."""
    rng = random.Random(4)
    letters = tiny_writers.LETTERS
    return [
        (
            {"prompt": "".join(rng.choices(letters, k=rng.randint(1, 30)))},
            {
                "seed": rng.randrange(2**63),
                "max_steps": rng.randint(1, 60),
                "temperature": rng.choice([0, 0.5, 1, 2]),
                "top_k": rng.choice([None, 1, 3]),
                "top_p": rng.choice([None, 0.3, 0.9]),
                "n": rng.choice([1, 3]),
            },
        )
        for _ in range(32)
    ]


def test_an_answer_is_the_same_alone_and_beside_31_others(writers: Server) -> None:
    requests = mixed_requests()
    alone = [ask(writers, item, **options) for item, options in requests]
    rows, runs = (writers.metric(f"baton_batch_rows_{part}", "model", "generator") for part in ("sum", "count"))
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda request: ask(writers, request[0], **request[1]), requests))
    more_rows, more_runs = (
        writers.metric(f"baton_batch_rows_{part}", "model", "generator") for part in ("sum", "count")
    )
    assert more_rows - rows > 2 * (more_runs - runs)  # they did share runs
    for one_way, other_way in zip(alone, together, strict=True):
        pairs = zip(one_way[0]["choices"], other_way[0]["choices"], strict=True)
        assert all(same(*pair) for pair in pairs)


def test_an_answer_goes_on_by_its_token_elsewhere_as_if_never_interrupted(
    writer_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """Half of it on a server that is killed then, and half on another."""
    first = start_server(writer_models, tmp_path / "one", BATON_TOKEN_KEYS=TOKEN_KEYS)
    whole = one(first, PROMPT, seed=11, max_steps=40)
    half = one(first, PROMPT, seed=11, max_steps=20)
    first.kill()
    second = start_server(writer_models, tmp_path / "two", BATON_TOKEN_KEYS=TOKEN_KEYS)
    rest = one(second, {"state": half["state"]}, seed=11, max_steps=20)
    assert half["text"] + rest["text"] == whole["text"]
    assert (half["step"], rest["step"]) == (26, whole["step"])


def test_choices_are_what_single_requests_give_with_the_seeds_that_they_tell(writers: Server) -> None:
    ((*choices,),) = [result["choices"] for result in ask(writers, PROMPT, n=5, seed=2**63 - 3)]
    assert [choice["seed"] for choice in choices] == [2**63 - 3, 2**63 - 2, 2**63 - 1, 0, 1]
    assert len({choice["text"] for choice in choices}) == 5
    assert all(same(choice, one(writers, PROMPT, seed=choice["seed"])) for choice in choices)


def test_the_choices_of_an_item_share_the_run_of_its_prompt(writers: Server) -> None:
    """And take their three steps in two rows: of one step, and of two."""
    answer = writers.post("/v1/generate", {"model": "generator", "items": [PROMPT], "n": 4, "max_steps": 3})
    assert answer.json()["usage"] == {"rows": 1 + 4 * 2, "steps": 6 + 4 * 3, "padded_steps": 6 + 4 * 3, "batch_rows": 4}


def test_a_state_of_steps_is_gone_on_from_and_a_state_is_stepped_on(writers: Server, writer_models: Path) -> None:
    step = {"model": "generator", "items": [{"text": PROMPT["prompt"]}]}
    stepped = writers.post("/v1/step", step).json()["results"][0]
    written = one(writers, {"state": stepped["state"]}, temperature=0, max_steps=4)
    assert written["text"] == greedy_by_hand(writer_models / "generator" / "1", PROMPT["prompt"], 4)
    assert same(written, one(writers, PROMPT, temperature=0, max_steps=4, seed=written["seed"]))
    on = {"model": "generator", "items": [{"state": written["state"], "text": "a"}]}
    assert writers.post("/v1/step", on).json()["results"][0]["step"] == 6 + 4 + 1


def test_a_prompt_goes_on_from_a_state(writers: Server) -> None:
    begun = one(writers, {"prompt": "abc"}, max_steps=1, temperature=0)
    on = one(writers, {"state": begun["state"], "prompt": "de"}, seed=1)
    assert same(on, one(writers, {"prompt": "abc" + begun["text"] + "de"}, seed=1))
    empty = one(writers, {"state": begun["state"], "prompt": ""}, seed=1)
    assert same(empty, one(writers, {"state": begun["state"]}, seed=1))


def test_nothing_begins_with_the_id_that_the_model_starts_with(writers: Server) -> None:
    start = {"prompt": tiny_writers.LETTERS[tiny_writers.START]}
    assert same(one(writers, {}, seed=3), one(writers, start, seed=3))
    assert same(one(writers, {"prompt": ""}, seed=3), one(writers, start, seed=3))


def test_a_text_ends_at_the_first_stop_text_and_its_state_is_behind_it(writers: Server) -> None:
    whole = one(writers, PROMPT, seed=9, max_steps=60)["text"]
    stop = whole[20:22]
    until = whole.index(stop)
    choice = one(writers, PROMPT, seed=9, max_steps=60, stop=["never", stop])
    assert (choice["text"], choice["finish"], choice["steps"]) == (whole[:until], "stop", until + 2)
    rest = one(writers, {"state": choice["state"]}, seed=9, max_steps=10)
    assert rest["text"] == whole[until + 2 : until + 12]


def test_a_text_ends_with_the_end_that_the_model_declares(writers: Server) -> None:
    whole = one(writers, PROMPT, seed=1, max_steps=60)["text"]
    assert tiny_writers.LETTERS[tiny_writers.END] in whole
    choice = one(writers, PROMPT, model="ending", seed=1, max_steps=60)
    before, _, _ = whole.partition(".")
    assert (choice["text"], choice["finish"], choice["steps"]) == (before, "end", len(before) + 1)


def test_only_the_likeliest_are_drawn(writers: Server) -> None:
    """The likeliest one is greedy, however it is asked for; and more heat draws others."""
    greedy = one(writers, PROMPT, temperature=0, seed=1)
    assert same(greedy, one(writers, PROMPT, top_k=1, seed=1))
    assert same(greedy, one(writers, PROMPT, top_p=1e-6, seed=1))
    assert same(greedy, one(writers, PROMPT, temperature=1e-3, seed=1))
    assert one(writers, PROMPT, temperature=100, seed=1)["text"] != greedy["text"]


def test_probabilities_are_what_the_model_held_each_drawn_id_to_be(writers: Server, writer_models: Path) -> None:
    choice = one(writers, PROMPT, seed=2, max_steps=8, temperature=3, probabilities=True)
    step = {"model": "generator", "items": [{"text": PROMPT["prompt"] + choice["text"]}], "return": "all"}
    made = np.array(writers.post("/v1/step", step).json()["results"][0]["outputs"]["probabilities"])
    ids = [tiny_writers.LETTERS.index(letter) for letter in choice["text"]]
    assert choice["probabilities"] == pytest.approx([made[5 + place, token] for place, token in enumerate(ids)])


def test_a_model_of_ids_writes_ids(writers: Server) -> None:
    choice = one(writers, {"values": [1, 2]}, model="ids-alone", seed=4, max_steps=5)
    assert "text" not in choice
    assert len(choice["ids"]) == 5
    letters = [tiny_writers.LETTERS[token] for token in (1, 2)]
    assert one(writers, {"prompt": "".join(letters)}, seed=4, max_steps=5)["step"] == choice["step"] == 7


def test_characters_of_several_ids_come_whole(writers: Server) -> None:
    choice = one(writers, {"prompt": "é"}, model="octets", seed=4, max_steps=60)
    assert choice["text"]
    assert choice["steps"] == 60


def test_a_server_may_hold_the_states(writers: Server) -> None:
    held = one(writers, PROMPT, seed=1, max_steps=5, hold="server")
    assert held["held"] is True
    assert len(held["state"]) < len(one(writers, PROMPT, seed=1, max_steps=5)["state"])
    whole = one(writers, PROMPT, seed=1, max_steps=10)["text"]
    assert held["text"] + one(writers, {"state": held["state"]}, seed=1, max_steps=5)["text"] == whole


def test_items_fail_alone(writers: Server) -> None:
    items = [
        PROMPT,
        {"id": "b", "values": [1]},
        {"state": "AAAA"},
        {"state": None},
        {"prompt": 1},
        {"id": "z", **PROMPT},
    ]
    results = ask(writers, *items, seed=1, max_steps=4)
    assert [result["index"] for result in results] == [*range(6)]
    assert [result["id"] for result in results] == [None, "b", None, None, None, "z"]
    refused = [(result["error"]["code"], result["error"]["field"]) for result in results[1:5]]
    assert refused == [
        ("invalid_request", "items[1].values"),
        ("state_invalid", "items[2].state"),
        ("state_invalid", "items[3].state"),
        ("invalid_request", "items[4].prompt"),
    ]
    assert same(results[0]["choices"][0], results[5]["choices"][0])


@pytest.mark.parametrize("temperature", [0, 1])
def test_where_no_id_is_likely_the_item_fails_and_those_beside_it_do_not(writers: Server, temperature: float) -> None:
    options: dict[str, Any] = {"model": "muted", "seed": 1, "max_steps": 1, "temperature": temperature}
    mute, sound = ask(writers, {"prompt": "abcg"}, PROMPT, **options)
    assert (mute["error"]["code"], mute["error"]["field"]) == ("not_finite", "items[0]")
    assert [(choice["steps"], choice["finish"]) for choice in mute["choices"]] == [(0, "error")]
    assert same(sound["choices"][0], one(writers, PROMPT, **options))


REFUSED: list[tuple[dict[str, Any], tuple[int, str, str | None]]] = [
    ({"items": []}, (422, "empty_input", "items")),
    ({"items": [{}], "model": "beginless"}, (422, "invalid_request", "items[0]")),
    ({"items": [PROMPT], "max_steps": 4097}, (422, "invalid_request", "max_steps")),
    ({"items": [PROMPT], "max_steps": 0}, (422, "invalid_request", "max_steps")),
    ({"items": [PROMPT], "n": 65}, (422, "invalid_request", "n")),
    ({"items": [PROMPT] * 17, "n": 64}, (413, "batch_too_large", "n")),
    ({"items": [PROMPT] * 3, "n": 3, "max_steps": 4000}, (413, "batch_too_large", "max_steps")),
    ({"items": [PROMPT], "temperature": -1}, (422, "invalid_request", "temperature")),
    ({"items": [PROMPT], "top_k": 0}, (422, "invalid_request", "top_k")),
    ({"items": [PROMPT], "top_p": 0}, (422, "invalid_request", "top_p")),
    ({"items": [PROMPT], "seed": 2**63}, (422, "invalid_request", "seed")),
    ({"items": [PROMPT], "stop": [""]}, (422, "invalid_request", "stop[0]")),
    ({"items": [PROMPT], "stop": ["a"] * 9}, (422, "invalid_request", "stop")),
    ({"items": [{"values": [1]}], "stop": ["a"], "model": "ids-alone"}, (422, "invalid_request", "model")),
    ({"items": [PROMPT], "state_every": 2}, (422, "invalid_request", "state_every")),
    ({"items": [PROMPT], "timeout_ms": 10_001}, (422, "invalid_request", "timeout_ms")),
    ({"items": [PROMPT], "model": "nonesuch"}, (404, "unknown_model", "model")),
    ({"items": [{"prompt": "a" * 4097}]}, (413, "item_too_large", "items[0].prompt")),
]


@pytest.mark.parametrize(("body", "refusal"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_is_refused(writers: Server, body: dict[str, Any], refusal: tuple[int, str, str | None]) -> None:
    assert error_of(writers.post("/v1/generate", {"model": "generator", **body})) == refusal


def test_a_whole_answer_has_a_bounded_number_of_steps_and_a_stream_as_many_as_are_asked_for(writers: Server) -> None:
    """Of all its choices together; they may end before."""
    body = {"model": "generator", "items": [{"prompt": "a"}] * 3, "n": 3, "max_steps": 3641, "stop": ["a", "b", "c"]}
    refused = writers.post("/v1/generate", body).json()["error"]
    assert (refused["code"], refused["limit"]) == ("batch_too_large", 32_768)
    assert '"stream"' in refused["message"]
    fewer = writers.post("/v1/generate", {**body, "max_steps": 3640})
    assert fewer.json()["summary"] == {"ok": 3, "failed": 0}
    assert stream(writers, *body["items"], **{k: body[k] for k in ("n", "max_steps", "stop")})[-1]["summary"]["ok"] == 3


def test_a_model_without_feedback_is_for_another_task(server: Server) -> None:
    answer = server.post("/v1/generate", {"model": "stepper", "items": [{}]})
    assert error_of(answer) == (422, "wrong_task", "model")


def test_a_session_ends_with_its_last_step(writer_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(writer_models, tmp_path, BATON_MAX_SESSION_STEPS="10")
    choice = one(server, PROMPT, seed=1)
    assert (choice["step"], choice["steps"], choice["finish"]) == (10, 4, "length")
    answer = server.post("/v1/generate", {"model": "generator", "items": [{"state": choice["state"]}]})
    assert error_of(answer)[:2] == (422, "session_too_long")


def test_a_graph_without_lengths_writes_the_same_beside_prompts_of_other_lengths(
    writers: Server, tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny_writers.generator(tmp_path / "models", lengths=None)
    server = start_server(tmp_path / "models", tmp_path / "state")
    prompts = ["abcdefgh"[:length] for length in (1, 2, 3, 4, 5, 6, 7, 8)] * 4

    def write(where: Server, number: int) -> list[str]:
        (result,) = ask(where, {"prompt": prompts[number]}, n=3, seed=number, max_steps=30)
        return [choice["text"] for choice in result["choices"]]

    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(partial(write, server), range(len(prompts))))
    assert together == [write(writers, number) for number in range(len(prompts))]


def test_what_was_drawn_before_a_step_that_fails_stays(writers: Server) -> None:
    """Wherever in a run that step is: after each id a choice would have ended so."""
    body = {"model": "muted", "items": [{"prompt": "a"}], "n": 16, "seed": 1, "max_steps": 24}
    (result,) = writers.post("/v1/generate", body).json()["results"]
    ended = [choice for choice in result["choices"] if choice["finish"] == "error"]
    assert len({choice["steps"] for choice in ended}) > 6
    for choice in ended:
        assert choice["text"].index("g") == choice["steps"] - 1 == len(choice["text"]) - 1
        shorter = {"model": "muted", "seed": choice["seed"], "max_steps": choice["steps"]}
        assert one(writers, {"prompt": "a"}, **shorter)["text"] == choice["text"]


def test_an_id_that_was_not_drawn_is_not_counted(writers: Server) -> None:
    before = writers.metric("baton_generated_steps_total", "model", "muted")
    mute, sound = ask(writers, {"prompt": "abcg"}, {"prompt": "a"}, model="muted", n=2, max_steps=1)
    assert ("error" in mute, [choice["steps"] for choice in sound["choices"]]) == (True, [1, 1])
    assert writers.metric("baton_generated_steps_total", "model", "muted") == before + 2


def test_generation_is_counted(writers: Server) -> None:
    before = writers.metric("baton_generated_steps_total", "model", "generator")
    one(writers, PROMPT, max_steps=7)
    assert writers.metric("baton_generated_steps_total", "model", "generator") == before + 7
    assert writers.metric("baton_generations") == 0


@pytest.mark.parametrize("model", ["octets", "fallback"])
def test_bytes_that_are_no_characters_are_written_all_the_same(writers: Server, model: str) -> None:
    for seed in range(10):
        choice = one(writers, {"prompt": "b"}, model=model, max_steps=60, seed=seed)
        assert (choice["finish"], choice["steps"]) == ("length", 60)
        assert "\ufffd" in choice["text"]


@pytest.mark.parametrize("model", ["octets", "words"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_texts_of_parts_joined_are_the_text_of_the_whole(writers: Server, model: str, precision: str) -> None:
    """Whatever the part ends in: a word, or half a character."""
    options: dict[str, Any] = {"model": model, "temperature": 0 if precision == "float16" else 1}
    for seed in range(12):
        whole = one(writers, {"prompt": "a"}, seed=seed, max_steps=40, **options)
        first = one(writers, {"prompt": "a"}, seed=seed, max_steps=15 + seed, precision=precision, **options)
        rest = one(writers, {"state": first["state"]}, seed=seed, max_steps=25 - seed, **options)
        assert first["text"] + rest["text"] == whole["text"]


def test_a_text_goes_on_from_a_state_of_steps_as_from_the_text(writers: Server) -> None:
    steps = {"model": "words", "items": [{"text": "hello"}]}
    state = writers.post("/v1/step", steps).json()["results"][0]["state"]
    begun = one(writers, {"prompt": "hello"}, model="words", seed=1)
    assert begun["text"].startswith(" ")
    assert same(one(writers, {"state": state}, model="words", seed=1), begun)
