"""POST /v1/step through a real server: state is a value."""

from __future__ import annotations

import base64
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import TOKEN_KEYS, Server, ServerFactory
from keyring import Keyring

CLOSE = 1e-5  # batching and chunking change float32 sums only in their order
ROWS = np.random.default_rng(11).normal(size=(12, 2)).tolist()


def step(server: Server, *items: dict, model: str = "stepper", **options: object) -> list[dict]:
    """Send items; one whose state is None begins a session."""
    items = tuple({key: value for key, value in item.items() if key != "state" or value is not None} for item in items)
    return server.post("/v1/step", {"model": model, "items": list(items), **options}).json()["results"]


def step_refused(server: Server, item: dict) -> list[dict]:
    answer = server.post("/v1/step", {"model": "stepper", "items": [item]})
    assert answer.status_code >= 400
    return answer.json()["results"]


def whole(server: Server, rows: list) -> np.ndarray:
    (result,) = step(server, {"inputs": rows}, **{"return": "all"})
    return np.array(result["outputs"]["y"])


def test_an_answer_has_the_documented_members(server: Server) -> None:
    (result,) = step(server, {"id": "a", "inputs": ROWS[:3]})
    assert (result["index"], result["id"], result["version"], result["step"]) == (0, "a", "1", 3)
    assert np.array(result["outputs"]["y"]).shape == (3,)
    assert result["expires_at"].endswith("Z")
    (every,) = step(server, {"inputs": ROWS[:3]}, **{"return": "all"})
    assert np.array(every["outputs"]["y"]).shape == (3, 3)
    assert every["outputs"]["y"][-1] == pytest.approx(result["outputs"]["y"], abs=CLOSE)


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [2, 1, 6, 3]])
def test_chunks_with_carried_state_equal_the_whole(server: Server, cuts: list[int]) -> None:
    state, made, done = None, [], 0
    for cut in cuts:
        (result,) = step(server, {"state": state, "inputs": ROWS[done : done + cut]}, **{"return": "all"})
        made += result["outputs"]["y"]
        state, done = result["state"], done + cut
        assert result["step"] == done
    np.testing.assert_allclose(made, whole(server, ROWS), atol=CLOSE)


def test_many_sessions_of_unequal_length_share_a_request_and_never_mix(server: Server) -> None:
    rng = np.random.default_rng(3)
    sequences = [rng.normal(size=(length, 2)).tolist() for length in (1, 9, 4, 4, 12, 2)]
    items = [{"id": str(n), "inputs": rows} for n, rows in enumerate(sequences)]
    for _ in range(2):
        for item, result in zip(items, step(server, *items, **{"return": "all"}), strict=True):
            assert result["id"] == item["id"]
            np.testing.assert_allclose(result["outputs"]["y"], whole(server, item["inputs"]), atol=CLOSE)
        items.reverse()


def test_concurrent_sessions_never_mix_their_states(server: Server) -> None:
    def run_session(seed: int) -> None:
        rows = np.random.default_rng(seed).normal(size=(8, 2)).tolist()
        state, made = None, []
        for row in rows:
            (result,) = step(server, {"state": state, "inputs": [row]})
            state = result["state"]
            made.append(result["outputs"]["y"])
        np.testing.assert_allclose(made, whole(server, rows), atol=CLOSE)

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(run_session, range(48)))


def test_retry_rewind_and_fork_are_the_same_token_used_again(server: Server) -> None:
    (parent,) = step(server, {"inputs": ROWS[:4]})
    once, again = (step(server, {"state": parent["state"], "inputs": ROWS[4:6]})[0] for _ in range(2))
    assert once["outputs"] == again["outputs"]
    step(server, {"state": once["state"], "inputs": ROWS[6:]})
    (rewound,) = step(server, {"state": parent["state"], "inputs": ROWS[4:6]})
    assert rewound["outputs"] == once["outputs"]
    branches = [[*ROWS[:4], [n, -n]] for n in range(8)]
    forks = step(server, *({"state": parent["state"], "inputs": rows[4:]} for rows in branches))
    for rows, fork in zip(branches, forks, strict=True):
        assert fork["outputs"]["y"] == pytest.approx(whole(server, rows)[-1], abs=CLOSE)


def test_a_session_goes_on_after_the_server_was_killed(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path)
    expected = whole(server, ROWS)
    (before,) = step(server, {"inputs": ROWS[:7]})
    server.kill()
    server.start()
    (after,) = step(server, {"state": before["state"], "inputs": ROWS[7:]}, **{"return": "all"})
    np.testing.assert_allclose(after["outputs"]["y"], expected[7:], atol=CLOSE)
    assert after["step"] == 12
    server.stop()


def test_a_replica_with_the_same_key_takes_the_next_step(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    keys = '["' + base64.urlsafe_b64encode(bytes(range(32))).decode() + '"]'
    one, other = (start_server(tiny_models, tmp_path / name, BATON_TOKEN_KEYS=keys) for name in "ab")
    state, made = None, []
    for index, row in enumerate(ROWS):
        (result,) = step((one, other)[index % 2], {"state": state, "inputs": [row]})
        state = result["state"]
        made.append(result["outputs"]["y"])
    np.testing.assert_allclose(made, whole(one, ROWS), atol=CLOSE)
    for server in (one, other):
        server.stop()
    assert not list(tmp_path.rglob("token.key"))


def test_a_model_without_a_lengths_input_answers_ragged_sessions_as_alone(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny.stepper(tmp_path / "models", lengths=None)
    server = start_server(tmp_path / "models", tmp_path / "state")
    items = [{"inputs": ROWS[:length]} for length in (3, 5, 3, 12, 1, 5)]
    for item, result in zip(items, step(server, *items, **{"return": "all"}), strict=True):
        np.testing.assert_allclose(result["outputs"]["y"], whole(server, item["inputs"]), atol=CLOSE)
    assert server.metric("baton_padding_ratio_sum") == server.metric("baton_padding_ratio_count") > 0
    server.stop()


@pytest.mark.parametrize("gain", [2, [2, 2], [0.5, -3]])
def test_a_constant_input_is_fed_as_the_manifest_says(
    server: Server, tmp_path: Path, start_server: ServerFactory, gain: float | list[float]
) -> None:
    tiny.stepper(tmp_path / "models", constants={"gain": gain})
    gaining = start_server(tmp_path / "models", tmp_path / "state")
    gained = (np.array(ROWS) * gain).tolist()
    np.testing.assert_allclose(whole(gaining, ROWS), whole(server, gained), atol=CLOSE)
    gaining.stop()


def test_a_number_may_fill_a_constant_vector(server: Server, tmp_path: Path, start_server: ServerFactory) -> None:
    tiny.stepper(tmp_path / "models", constants={"gain": 2}, graph_shapes={"gain": [2]})
    filling = start_server(tmp_path / "models", tmp_path / "state")
    np.testing.assert_allclose(whole(filling, ROWS), whole(server, (2 * np.array(ROWS)).tolist()), atol=CLOSE)
    filling.stop()


def test_a_session_does_not_go_on_with_other_constants(tmp_path: Path, start_server: ServerFactory) -> None:
    """They are part of what gives a state its meaning, entry by entry."""
    tokens = {"BATON_TOKEN_KEYS": TOKEN_KEYS}
    tiny.stepper(tmp_path / "one", constants={"gain": [1, 2]})
    tiny.stepper(tmp_path / "other", constants={"gain": [1, 3]})
    one, other = (start_server(tmp_path / name, tmp_path / "state", **tokens) for name in ("one", "other"))
    (begun,) = step(one, {"inputs": ROWS[:3]})
    (gone,) = step(other, {"inputs": ROWS[3:], "state": begun["state"]})
    assert gone["error"]["code"] == "state_model_gone"
    assert "outputs" in step(one, {"inputs": ROWS[3:], "state": begun["state"]})[0]


def test_text_is_read_word_by_word(server: Server) -> None:
    (whole_text,) = step(server, {"text": "a very good film !"}, model="reader", **{"return": "all"})
    assert whole_text["tokens"] == ["a", "very", "good", "film", "!"]
    assert np.array(whole_text["outputs"]["scores"]).shape == (5, 2)
    state, scores = None, []
    for words in ("a very", "good", "film !"):
        (part,) = step(server, {"state": state, "text": words}, model="reader", **{"return": "all"})
        state = part["state"]
        scores += part["outputs"]["scores"]
    np.testing.assert_allclose(scores, whole_text["outputs"]["scores"], atol=CLOSE)


def test_a_one_number_model_takes_values(server: Server) -> None:
    (result,) = step(server, {"values": [1, 2, 3]}, model="numbers", **{"return": "all"})
    assert result["outputs"]["total"] == [[1.0], [4.0], [11.0]]


def bad_items() -> list[tuple[str, dict, str, str]]:
    return [
        ("stepper", {"inputs": []}, "empty_input", "inputs"),
        ("stepper", {"inputs": [[1, 2], [3]]}, "ragged_inputs", "inputs[1]"),
        ("stepper", {"inputs": [[]]}, "ragged_inputs", "inputs[0]"),
        ("stepper", {"inputs": [1, 2]}, "invalid_request", "inputs[0]"),
        ("stepper", {"inputs": [["1", 2]]}, "invalid_request", "inputs[0][0]"),
        ("stepper", {"inputs": [[1e39, 2]]}, "not_finite", "inputs"),
        ("stepper", {"inputs": [[1, 2]] * 4097}, "item_too_large", "inputs"),
        ("stepper", {}, "invalid_request", "inputs"),
        ("stepper", {"values": [1]}, "invalid_request", "values"),
        ("stepper", {"text": "good"}, "invalid_request", "text"),
        ("stepper", {"inputs": [[1, 2]], "values": [1]}, "invalid_request", "values"),
        ("stepper", {"inputs": [[1, 2]], "state": ""}, "state_invalid", "state"),
        ("stepper", {"inputs": [[1, 2]], "state": 5}, "invalid_request", "state"),
        ("numbers", {"values": []}, "empty_input", "values"),
        ("numbers", {"values": [1, None]}, "invalid_request", "values[1]"),
        ("numbers", {"values": [3e38, 3e38]}, "not_finite", "values"),
        ("reader", {"text": ""}, "empty_input", "text"),
        ("reader", {"values": [1]}, "invalid_request", "values"),
        ("reader", {"text": "x" * 100_001}, "item_too_large", "text"),
    ]


@pytest.mark.parametrize(("model", "item", "code", "field"), bad_items())
def test_a_bad_item_fails_alone(server: Server, model: str, item: dict, code: str, field: str) -> None:
    good = {"stepper": {"inputs": [[1, 2]]}, "numbers": {"values": [1]}, "reader": {"text": "good"}}[model]
    first, bad, last = step(server, good, {"id": "bad", **item}, good, model=model)
    assert (bad["id"], bad["error"]["code"], bad["error"]["field"]) == ("bad", code, f"items[1].{field}".rstrip("."))
    assert first["outputs"] == last["outputs"]


def test_foreign_damaged_and_expired_states_have_their_codes(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    models = shutil.copytree(tiny_models, tmp_path / "models")
    tiny.stepper(models, name="cousin")
    tiny.stepper(models, name="doomed", seed=8)
    server = start_server(models, tmp_path / "state")
    one_step = {"inputs": [[1, 2]]}
    (mine,), (doomed,) = (step(server, one_step, model=model) for model in ("stepper", "doomed"))
    for state, model, status, code in (
        (mine["state"], "cousin", 409, "state_wrong_model"),
        (mine["state"][: len(mine["state"]) // 2], "stepper", 422, "state_invalid"),
        (mine["state"][:-1], "stepper", 422, "state_invalid"),
        ("A" * 10_000, "stepper", 422, "state_invalid"),
    ):
        answer = server.post("/v1/step", {"model": model, "items": [{**one_step, "state": state}]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.json()["error"]["field"] == "items[0].state"
        both = step(server, {**one_step, "state": state}, one_step, model=model)
        assert both[1]["step"] == 1
    server.stop()
    shutil.rmtree(models / "doomed")
    tiny.stepper(models, name="doomed", seed=9)
    server.start()
    answer = server.post("/v1/step", {"model": "doomed", "items": [{**one_step, "state": doomed["state"]}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "state_model_gone")
    assert server.metric("baton_tokens_rejected_total", "reason", "model_gone") == 1
    server.stop()
    brief = start_server(models, tmp_path / "state", BATON_STATE_TTL_S="1")
    (short_lived,) = step(brief, one_step)
    for _ in range(2000):
        answer = brief.post("/v1/step", {"model": "stepper", "items": [{**one_step, "state": short_lived["state"]}]})
        if answer.status_code != 200:
            break
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "state_expired")
    brief.stop()


def test_a_tenant_cannot_use_another_s_state(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    keys = Keyring("acme", "bolt")
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=keys.setting)
    acme, bolt = keys.header("acme"), keys.header("bolt")
    body = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}
    state = server.post("/v1/step", body, headers=acme).json()["results"][0]["state"]
    body["items"][0]["state"] = state
    assert server.post("/v1/step", body, headers=acme).status_code == 200
    stolen = server.post("/v1/step", body, headers=bolt)
    assert (stolen.status_code, stolen.json()["error"]["code"]) == (422, "state_invalid")
    for headers in (
        {},
        {"authorization": "Bearer nope"},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {keys['acme']}"},
    ):
        refused = server.post("/v1/step", body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert server.client.get("/v1/models", headers=headers).status_code == 401
    assert server.client.get("/readyz").status_code == 200
    server.stop()


def test_no_other_spelling_of_a_token_is_taken(server: Server) -> None:
    token = step(server, {"inputs": [[1, 2]]})[0]["state"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    changed = [
        token[:place] + alphabet[(alphabet.index(character) + 1) % 64] + token[place + 1 :]
        for place, character in enumerate(token)
    ]
    cut = [token[:length] for length in range(len(token))]
    odd = [
        f"{token}=",
        f"{token}A",
        f" {token}",
        f"{token}\n",
        f"{token[:9]}\u00e9{token[10:]}",
        f"{token[:9]}={token[10:]}",
    ]
    for start in range(0, len(spellings := changed + cut + odd), 500):
        items = [{"inputs": [[1, 2]], "state": state} for state in spellings[start : start + 500]]
        answer = server.post("/v1/step", {"model": "stepper", "items": items})
        assert {result["error"]["code"] for result in answer.json()["results"]} == {"state_invalid"}


def test_a_state_that_is_null_is_no_new_session(server: Server) -> None:
    """A client whose last call failed, and that passes on what it has, must notice."""
    answer = server.post("/v1/step", {"model": "stepper", "items": [{"state": None, "inputs": [[1, 2]]}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "state_invalid", "items[0].state")
    assert "leave the member out" in error["message"]


def test_the_same_weights_with_other_states_are_another_model(tmp_path: Path, start_server: ServerFactory) -> None:
    directory = tiny.stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state")
    (result,) = step(server, {"inputs": [[1, 2]]})
    server.stop()
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["states"].reverse()
    tiny.write_manifest(directory, manifest)
    server.start()
    (refused,) = step_refused(server, {"state": result["state"], "inputs": [[1, 2]]})
    assert refused["error"]["code"] == "state_model_gone"
    server.stop()


def test_two_versions_answer_their_own_states_and_the_newest_answers_new_work(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    models = tmp_path / "models"
    tiny.stepper(models, seed=1)
    server = start_server(models, tmp_path / "state")
    expected = whole(server, ROWS)
    (old,) = step(server, {"inputs": ROWS[:5]})
    server.stop()
    tiny.stepper(models, version="2", seed=2)
    server.start()
    fresh, continued = step(server, {"inputs": ROWS}, {"state": old["state"], "inputs": ROWS[5:]}, **{"return": "all"})
    assert (fresh["version"], continued["version"]) == ("2", "1")
    np.testing.assert_allclose(continued["outputs"]["y"], expected[5:], atol=CLOSE)
    assert not np.allclose(fresh["outputs"]["y"], expected, atol=0.01)
    (line,) = server.client.get("/v1/models").json()["models"]
    assert (line["version"], line["versions"]) == ("2", ["1", "2"])
    server.stop()


def test_a_number_beyond_float32_fails_alone_and_without_a_run(server: Server) -> None:
    before = server.metric("baton_batch_rows_sum", "model", "numbers")
    body = {"model": "numbers", "items": [{"values": [1.0]}, {"values": [1e39]}, {"values": [2.0]}]}
    answer = server.post("/v1/step", body).json()
    assert [result.get("error", {}).get("code") for result in answer["results"]] == [None, "not_finite", None]
    assert server.metric("baton_batch_rows_sum", "model", "numbers") - before == 2
