"""Clocks that are put forward or back, and those of replicas that differ: what cannot be used now is told so.

No test may set the machine's clock. So the services are told another time by `time.time`, by which tokens and states
are dated.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import TOKEN_KEYS, Server, ServerFactory
from held import KEPT, go_on, hold, outcome, sequence_step, sequence_total
from streams import CLOSE, Stream, random_rows, whole

HOUR_S, DAY_S = 3600, 86_400
SKEW_S, LET_PASS_S = 300, 60
ROWS = random_rows(31, 6)
SITE = """
import os, time

real_time, shift_file = time.time, os.environ["SHIFT_FILE"]


def shifted_time():
    with open(shift_file) as shift:
        return real_time() + float(shift.read())


time.time = shifted_time
"""


class Shift:
    """The time of a service: the machine's, and so many seconds more."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._file = folder, folder / "shift"
        (folder / "sitecustomize.py").write_text(SITE)
        self.set(0)

    def set(self, seconds: float) -> None:
        written = self._folder / "written"
        written.write_text(str(seconds))
        os.replace(written, self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self._folder), "SHIFT_FILE": str(self._file)}


@pytest.fixture
def shift(tmp_path: Path) -> Shift:
    return Shift(tmp_path / "site")


def token(server: Server, state: str | None = None) -> str:
    answer = go_on(server.client, state, hold="client").raise_for_status()
    made: str = answer.json()["results"][0]["state"]
    return made


def assert_from_future(server: Server, state: str, by_s: float) -> None:
    refused = go_on(server.client, state)
    assert outcome(refused) == (503, "state_from_future")
    assert float(refused.headers["retry-after"]) == pytest.approx(by_s, abs=20)


def test_a_clock_that_is_put_forward_and_back_by_an_hour_loses_nothing(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, shift: Shift
) -> None:
    server = start_server(tiny_models, tmp_path / "state", **shift.environment)
    early, held = token(server), hold(server.client)
    assert sequence_total(server.client, "walk", start=True) == 1
    with Stream(server) as stream:
        outputs = [stream.step(ROWS[:2])[-1]]
        shift.set(HOUR_S)
        outputs.append(stream.step(ROWS[2:4])[-1])
        late, held_late = token(server, early), hold(server.client, 1)
        assert [outcome(go_on(server.client, state)) for state in (late, held, held_late)] == [KEPT] * 3
        assert sequence_total(server.client, "walk") == 3
        for back in (0, -HOUR_S):
            shift.set(back)
            for state in (late, held_late):
                assert_from_future(server, state, by_s=HOUR_S - back - LET_PASS_S)
            assert sequence_total(server.client, "walk") == {0: 7, -HOUR_S: 15}[back]
            begun = token(server)
            assert outcome(go_on(server.client, begun)) == KEPT
        outputs.append(stream.step(ROWS[4:])[-1])
        checkpoint = stream.ask(checkpoint=True)["state"]
        assert outcome(go_on(server.client, checkpoint)) == KEPT
    assert outputs == [pytest.approx(row, abs=CLOSE) for row in whole(server, ROWS)[1::2]]
    shift.set(HOUR_S)
    for state in (early, held, late, held_late, begun, checkpoint):
        assert outcome(go_on(server.client, state)) == KEPT
    assert sequence_total(server.client, "walk") == 31
    server.stop()
    assert not any("Traceback" in line for line in server.lines)


def test_what_expires_by_a_clock_that_is_put_forward_is_named_and_what_was_not_cleared_away_comes_back(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, shift: Shift
) -> None:
    server = start_server(tiny_models, tmp_path / "state", BATON_STATE_TTL_S=str(HOUR_S // 2), **shift.environment)
    early, held = token(server), hold(server.client)
    sequence_total(server.client, "walk", start=True)
    shift.set(HOUR_S)
    assert [outcome(go_on(server.client, state)) for state in (early, held)] == [(410, "state_expired")] * 2
    assert sequence_step(server.client, "walk").status_code == 400
    hold(server.client, 1)  # as it is saved, what is too old goes
    shift.set(0)
    assert outcome(go_on(server.client, early)) == KEPT
    assert outcome(go_on(server.client, held)) == (410, "state_gone")
    assert sequence_step(server.client, "walk").status_code == 400
    assert sequence_total(server.client, "walk", start=True) == 1
    server.stop()


def test_replicas_whose_clocks_differ_by_five_minutes_tell_whom_to_ask(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    replicas = []
    for name, seconds in (("right", 0), ("ahead", SKEW_S)):
        shift = Shift(tmp_path / name)
        shift.set(seconds)
        state_dir = tmp_path / f"state-{name}"
        replicas.append(start_server(tiny_models, state_dir, BATON_TOKEN_KEYS=TOKEN_KEYS, **shift.environment))
    right, ahead = replicas
    old, new = token(right), token(ahead)
    assert outcome(go_on(ahead.client, old)) == KEPT
    assert_from_future(right, new, by_s=SKEW_S - LET_PASS_S)
    assert outcome(go_on(ahead.client, new)) == KEPT
    assert right.metric("baton_tokens_rejected_total", "reason", "from_the_future") == 1
    for server in replicas:
        server.stop()
