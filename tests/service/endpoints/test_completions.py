"""POST /v1/completions, asked by the stock client of OpenAI's API: whole, streamed, gone on with, and refused."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tiny_writers
from conftest import Server, ServerFactory, free_port
from generating import one
from keyring import Keyring

PROMPT = "abc de"


def client_of(server: Server, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, **options)


@pytest.fixture(scope="module")
def client(writers: Server) -> Iterator[openai.OpenAI]:
    with client_of(writers) as client:
        yield client


def complete(client: openai.OpenAI, prompt: str | list[str] = PROMPT, **options: Any) -> Any:
    return client.completions.create(**{"model": "generator", "prompt": prompt, "seed": 3, **options})


def streamed(
    client: openai.OpenAI, prompt: str | list[str] = PROMPT, **options: Any
) -> tuple[dict[int, list[Any]], Any]:
    """Return the pieces of each choice, and the usage."""
    pieces: dict[int, list[Any]] = {}
    usage = None
    for event in complete(client, prompt, stream=True, stream_options={"include_usage": True}, **options):
        for choice in event.choices:
            pieces.setdefault(choice.index, []).append(choice)
        usage = event.usage or usage
    return pieces, usage


def test_a_completion_is_what_generate_writes(client: openai.OpenAI, writers: Server) -> None:
    answer = complete(client, max_tokens=12, temperature=0.7, top_p=0.9, stop="g")
    (choice,) = answer.choices
    expected = one(writers, {"prompt": PROMPT}, seed=3, max_steps=12, temperature=0.7, top_p=0.9, stop=["g"])
    assert (choice.text, choice.seed, choice.step) == (expected["text"], 3, expected["step"])
    assert choice.finish_reason == expected["finish"]
    steps = expected["steps"]
    assert answer.usage.to_dict() == {"prompt_tokens": 6, "completion_tokens": steps, "total_tokens": 6 + steps}
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model, answer.system_fingerprint) == ("text_completion", "generator", "generator-1")


def test_16_tokens_are_drawn_where_nothing_is_said(client: openai.OpenAI) -> None:
    answer = complete(client, max_tokens=None, temperature=None, n=None, stop=None, logprobs=None, echo=None)
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].text == complete(client, temperature=1, top_p=1, n=1, best_of=1).choices[0].text
    assert answer.choices[0].finish_reason == "length"


def test_choices_of_several_prompts_stand_in_their_order(client: openai.OpenAI, writers: Server) -> None:
    answer = complete(client, [PROMPT, "a"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = [
        one(writers, {"prompt": prompt}, seed=seed, max_steps=16)["text"] for prompt in (PROMPT, "a") for seed in (3, 4)
    ]
    assert [choice.text for choice in answer.choices] == alone


OPTIONS: list[dict[str, Any]] = [
    {},
    {"n": 3, "prompt": [PROMPT, "d"]},
    {"echo": True},
    {"stop": ["ed", "gg"], "logprobs": 2, "max_tokens": 40},
    {"model": "ending", "logprobs": 0, "max_tokens": 40},
    {"model": "octets", "prompt": "é", "max_tokens": 40},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_pieces_joined_are_the_whole(client: openai.OpenAI, options: dict[str, Any]) -> None:
    whole = complete(client, **options)
    pieces, usage = streamed(client, **options)
    assert usage == whole.usage
    for choice in whole.choices:
        own = pieces[choice.index]
        assert "".join(piece.text for piece in own) == choice.text
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        assert (own[-1].seed, own[-1].step) == (choice.seed, choice.step)
        if choice.logprobs is not None:
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                joined = [each for piece in own for each in getattr(piece.logprobs, name)]
                assert joined == getattr(choice.logprobs, name)


def test_echo_gives_the_prompt_back(client: openai.OpenAI) -> None:
    assert complete(client, echo=True).choices[0].text == PROMPT + complete(client).choices[0].text


def test_logprobs_are_of_the_drawn_token_and_the_likeliest(client: openai.OpenAI, writers: Server) -> None:
    (choice,) = complete(client, logprobs=2, max_tokens=8, temperature=2).choices
    step = {"model": "generator", "items": [{"text": PROMPT + choice.text}], "return": "all"}
    made = np.log(writers.post("/v1/step", step).json()["results"][0]["outputs"]["probabilities"])[5:-1]
    assert choice.logprobs.tokens == [*choice.text]
    assert choice.logprobs.text_offset == [*range(8)]
    letters = tiny_writers.LETTERS
    for place, letter in enumerate(choice.text):
        row = made[place][: len(letters)]
        assert choice.logprobs.token_logprobs[place] == pytest.approx(row[letters.index(letter)], abs=1e-5)
        likeliest = {letters[token] for token in np.argsort(-row)[:2]}
        assert choice.logprobs.top_logprobs[place].keys() == likeliest | {letter}
    assert all(math.exp(number) < 1 for number in choice.logprobs.token_logprobs)


def test_each_of_the_likeliest_has_a_name_of_its_own(client: openai.OpenAI) -> None:
    """Of a byte that is no character its number."""
    (choice,) = complete(client, "b", model="octets", logprobs=5, max_tokens=40).choices
    for token, entry in zip(choice.logprobs.tokens, choice.logprobs.top_logprobs, strict=True):
        assert len(entry.keys() - {token}) in (4, 5)
        assert token in entry
    assert any(token.startswith("bytes:\\x") for token in choice.logprobs.tokens)


@pytest.mark.parametrize("state", [False, True])
def test_the_tokens_of_words_joined_are_the_text(client: openai.OpenAI, state: bool) -> None:
    begun = complete(client, "hello", model="words", max_tokens=3).choices[0]
    gone_on = {"prompt": "", "extra_body": {"state": begun.state}} if state else {"prompt": "hello"}
    (choice,) = complete(client, model="words", logprobs=2, max_tokens=8, **gone_on).choices
    assert choice.text.startswith(" ")
    assert "".join(choice.logprobs.tokens) == choice.text


def test_logprobs_end_where_the_text_does(client: openai.OpenAI) -> None:
    (choice,) = complete(client, logprobs=1, max_tokens=40, stop="e").choices
    assert choice.finish_reason == "stop"
    assert "".join(choice.logprobs.tokens) == choice.text


def test_a_state_goes_on_after_the_service_was_killed(
    writer_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """Streamed to the middle, killed, started again: the rest by the state is that of an uninterrupted completion."""
    server = start_server(writer_models, tmp_path, BATON_PORT=str(free_port()))
    with client_of(server) as client:
        whole = complete(client, max_tokens=40).choices[0].text
        pieces, _ = streamed(client, max_tokens=25)
        server.kill()
        server.start()
        state = pieces[0][-1].state
        rest = complete(client, "", max_tokens=15, extra_body={"state": state}).choices[0]
        assert "".join(piece.text for piece in pieces[0]) + rest.text == whole
        assert rest.step == 6 + 40
        both = complete(client, ["", "a"], max_tokens=15, extra_body={"state": state})
        assert both.choices[0].text == rest.text
        assert both.choices[1].step == 6 + 25 + 1 + 15
        each = complete(client, ["", "a"], max_tokens=15, extra_body={"state": [state, state]})
        assert [choice.text for choice in each.choices] == [choice.text for choice in both.choices]


REFUSED: list[tuple[dict[str, Any], type[openai.APIStatusError], str, str]] = [
    ({"model": "nonesuch"}, openai.NotFoundError, "unknown_model", "model"),
    ({"model": "ids-alone"}, openai.UnprocessableEntityError, "invalid_request", "model"),
    ({"max_tokens": 4097}, openai.UnprocessableEntityError, "invalid_request", "max_tokens"),
    ({"best_of": 2}, openai.UnprocessableEntityError, "invalid_request", "best_of"),
    ({"best_of": 1, "n": 2}, openai.UnprocessableEntityError, "invalid_request", "best_of"),
    ({"presence_penalty": 0.5}, openai.UnprocessableEntityError, "invalid_request", "presence_penalty"),
    ({"frequency_penalty": 0.5}, openai.UnprocessableEntityError, "invalid_request", "frequency_penalty"),
    ({"logit_bias": {"1": 2}}, openai.UnprocessableEntityError, "invalid_request", "logit_bias"),
    ({"suffix": "a"}, openai.UnprocessableEntityError, "invalid_request", "suffix"),
    ({"logprobs": 6}, openai.UnprocessableEntityError, "invalid_request", "logprobs"),
    ({"logprobs": 1, "echo": True}, openai.UnprocessableEntityError, "invalid_request", "logprobs"),
    ({"prompt": []}, openai.UnprocessableEntityError, "invalid_request", "prompt"),
    ({"prompt": [[1, 2]]}, openai.UnprocessableEntityError, "invalid_request", "prompt[0]"),
    ({"prompt": ["a", "a" * 4097]}, openai.APIStatusError, "item_too_large", "prompt[1]"),
    ({"extra_body": {"state": "AAAA"}}, openai.UnprocessableEntityError, "state_invalid", "state"),
    ({"extra_body": {"state": None}}, openai.UnprocessableEntityError, "state_invalid", "state"),
    ({"extra_body": {"state": ["AAAA", "AAAA"]}}, openai.UnprocessableEntityError, "invalid_request", "state"),
    (
        {"prompt": ["", ""], "extra_body": {"state": ["AAAA", "AAAA"]}},
        openai.APIStatusError,
        "state_invalid",
        "state[0]",
    ),
    ({"extra_body": {"top_k": 3}}, openai.UnprocessableEntityError, "invalid_request", "top_k"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("options", "kind", "code", "param"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_is_refused_in_openai_s_form(
    client: openai.OpenAI,
    options: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str,
    stream: bool,
) -> None:
    with pytest.raises(kind) as refusal:
        complete(client, **{"stream": stream, **options})
    body: Any = refusal.value.body
    assert (body["type"], body["code"], body["param"]) == ("invalid_request_error", code, param)
    assert body["message"]


def test_a_whole_answer_has_a_bounded_number_of_steps(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        complete(client, n=9, max_tokens=3641)
    body: Any = refusal.value.body
    assert (body["code"], body["param"]) == ("batch_too_large", "max_tokens")
    assert '"stream"' in body["message"]


def test_members_that_mean_nothing_here_are_taken_at_their_neutral_values(client: openai.OpenAI) -> None:
    alone = complete(client, n=2)
    for none in ({"logit_bias": None, "suffix": None, "best_of": None}, {"logit_bias": {}, "suffix": "", "best_of": 2}):
        neutral = complete(client, n=2, presence_penalty=0, frequency_penalty=0.0, user="someone", **none)
        assert [choice.text for choice in neutral.choices] == [choice.text for choice in alone.choices]
    options = {"include_usage": False, "include_obfuscation": False}
    pieces = [event.choices[0].text for event in complete(client, stream=True, stream_options=options)]
    assert "".join(pieces) == alone.choices[0].text


def test_a_prompt_that_fails_is_one_failure_however_many_choices_it_has(client: openai.OpenAI, writers: Server) -> None:
    before = writers.metric("baton_item_errors_total", "cause", "not_finite")
    mark = writers.mark()
    _, failure = until_it_fails(complete(client, ["abcg", "abcg"], model="muted", n=3, stream=True), [])
    assert (failure.code, failure.param) == ("not_finite", "prompt[0]")
    (line,) = [one for one in writers.lines_since(mark, "/v1/completions") if "/v1/completions" in one]
    assert "items=2 failed=2" in line
    assert writers.metric("baton_item_errors_total", "cause", "not_finite") == before + 2


def test_whoever_has_no_key_is_told_in_openai_s_form(
    writer_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    keys = Keyring("acme")
    server = start_server(writer_models, tmp_path, BATON_API_KEYS=keys.setting)
    with client_of(server) as client, pytest.raises(openai.AuthenticationError) as refusal:
        complete(client)
    assert refusal.value.body["type"] == "authentication_error"  # type: ignore[index]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=keys["acme"]) as client:
        assert complete(client).usage.completion_tokens == 16


def until_it_fails(events: Any, told: list[Any]) -> tuple[list[Any], openai.APIError]:
    """Return what was told in all, and what the stream ended with."""
    try:
        for event in events:
            told.append(event.choices[0])
    except openai.APIError as failure:
        return told, failure
    raise AssertionError("the stream ended as if all had been told")


def test_a_stream_tells_its_states_and_then_why_it_ends(
    writer_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """When the service shuts down; the state goes on from there."""
    server = start_server(writer_models, tmp_path, BATON_MAX_STEPS="1000000", BATON_PORT=str(free_port()))
    with client_of(server) as client:
        events = complete(client, max_tokens=1_000_000, stream=True)
        told = [next(events).choices[0] for _ in range(20)]
        server.process.send_signal(signal.SIGTERM)
        told, failure = until_it_fails(events, told)
        assert failure.code == "draining"
        server.stop()
        server.start()
        begun = "".join(piece.text for piece in told)
        assert told[-1].finish_reason is None
        rest = complete(client, "", max_tokens=10, extra_body={"state": told[-1].state}).choices[0]
        assert complete(client, max_tokens=len(begun) + 10).choices[0].text == begun + rest.text
