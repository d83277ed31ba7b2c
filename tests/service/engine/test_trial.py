"""What is loaded may crash, never end, or take all the memory: a process that tries it first dies of that, no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_wild
import works
from conftest import ROOT, Server, ServerFactory, baton
from here import vouched
from streams import Stream

from service.engine.trial import Trial
from service.engine.versions import load_tried, try_versions
from service.errors import ManifestError, StartupError
from service.metrics import Metrics
from service.settings import Settings

CLOSE = 1e-5
ROWS = np.random.default_rng(9).normal(size=(8, 2)).astype("<f4")
LITTLE = str(512 * 2**20)  # bytes; the sound models need a quarter of it
CRASH = r"ONNX Runtime died of SIGFPE \(Floating point exception\) as it loads and tries {}, .* export it in float32"
NO_END = r"{} is not loaded and tried within 1 s; does every loop in it end\? .* raise BATON_TRIAL_S$"
EXPLOSION = rf"loading and trying {{}} takes more than {LITTLE} bytes of memory; .* raise BATON_TRIAL_BYTES$"
WILD: list[tuple[Callable[[Path], Path], dict[str, str], str]] = [
    (tiny_wild.crashing, {"BATON_WORKERS": "2"}, CRASH),
    (tiny_wild.crashing_late, {}, CRASH),
    (tiny_wild.endless, {"BATON_TRIAL_S": "1"}, NO_END),
    (tiny_wild.exploding, {"BATON_TRIAL_BYTES": LITTLE}, EXPLOSION),
]
FELL_BACK = r"ONNX Runtime died of SIGSEGV \(Segmentation fault\) as it optimised {}.* loaded at level 'extended'"


def step(server: Server, rows: Any, state: dict[str, Any] | None = None, hold: str = "client") -> dict[str, Any]:
    item = {"inputs": np.asarray(rows).tolist(), **({} if state is None else {"state": state})}
    body = {"model": "stepper", "items": [item], "return": "all", "hold": hold}
    (result,) = server.post("/v1/step", body).raise_for_status().json()["results"]
    return result


def reload(server: Server, until: str) -> str:
    """Ask the service to look at its models; return the first line after that with `until`."""
    start = server.mark()
    server.process.send_signal(signal.SIGHUP)
    return server.lines_since(start, until)[-1]


def process_that_tries(line: str) -> int:
    return int(line.rsplit(" ", 1)[1])


def lives(process: int) -> bool:
    """Say whether a process is there and has not ended, whoever is still to take note of that."""
    return Path(f"/proc/{process}/exe").exists()


def test_sessions_streams_and_held_states_go_on_while_wild_versions_are_refused(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    """The last trial has no end, nor has the service to wait for it when it is told to end."""
    models = tmp_path / "models"
    tiny.stepper(models)
    server = start_server(models, tmp_path / "state", BATON_TRIAL_BYTES=LITTLE)
    whole = step(server, ROWS)["outputs"]["y"]
    states = {hold: step(server, ROWS[:1], hold=hold)["state"] for hold in ("client", "server")}
    with Stream(server) as stream:
        made = [stream.step(ROWS[:1])]

        def take_step(number: int) -> None:
            for hold, state in states.items():
                result = step(server, ROWS[number : number + 1], state, hold)
                states[hold] = result["state"]
                np.testing.assert_allclose(result["outputs"]["y"], whole[number : number + 1], atol=CLOSE)
            made.append(stream.step(ROWS[number : number + 1]))

        wild = (tiny_wild.crashing, CRASH), (tiny_wild.crashing_late, CRASH), (tiny_wild.exploding, EXPLOSION)
        for number, (write, says) in enumerate(wild, start=1):
            directory = write(models)
            line = reload(server, until="not reloaded")
            assert re.search(f"{directory}/model.onnx: file: {says.format('stepper 2')}", line)
            take_step(number)
            shutil.rmtree(directory)
        tiny_wild.endless(models)
        child = process_that_tries(reload(server, until="trying stepper 2"))
        take_step(4)
        start = server.mark()
        os.kill(child, signal.SIGKILL)
        line = server.lines_since(start, until="not reloaded")[-1]
        assert "tries stepper 2 died of SIGKILL (Killed), perhaps by the kernel for want of memory; " in line
        take_step(5)
        assert server.metric("baton_reloads_total", "outcome", "refused") == 4
        child = process_that_tries(reload(server, until="trying stepper 2"))
        take_step(6)
    np.testing.assert_allclose(np.concatenate(made), whole[:7], atol=CLOSE)
    server.stop()
    assert not lives(child)
    assert not any("Traceback" in line for line in server.lines)


@pytest.mark.parametrize(("write", "settings", "says"), WILD)
def test_start_up_ends_with_one_line_that_names_model_file_cause_and_remedy(
    write: Callable[[Path], Path], settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    directory = write(tmp_path / "models")
    own = {"BATON_MODELS_DIR": str(tmp_path / "models"), "BATON_STATE_DIR": str(tmp_path / "state")}
    ended = baton("serve", **own, **settings, BATON_PORT="0", BATON_LOG_LEVEL="warning")
    (line,) = ended.stderr.splitlines()
    assert re.fullmatch(f"baton: {directory}/model.onnx: file: {says.format('stepper 2').removesuffix('$')}.*", line)
    assert ended.returncode == 1


@pytest.mark.parametrize(("write", "settings", "says"), WILD)
def test_inspect_ends_with_one_line_that_names_file_cause_and_remedy(
    write: Callable[[Path], Path], settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    file = write(tmp_path) / "model.onnx"
    ended = baton("inspect", str(file), "--name", "wild", **settings)
    (line,) = ended.stderr.splitlines()
    assert re.fullmatch(f"baton: {file}: file: {says.format('wild').removesuffix('$')}.*", line)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_graph_that_dies_of_being_optimised_is_served_at_a_level_that_it_survives(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    """The supervisor tries it once for all workers at the start, each worker what comes later."""
    models = tmp_path / "models"
    tiny_wild.half(models)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2", TMPDIR=str(scratch))
    tried = [line for line in server.lines if "baton.trial" in line]
    assert {int(line.split()[3]) for line in tried} == {server.process.pid}
    assert re.search(FELL_BACK.format("stepper 2"), tried[-1])
    whole = step(server, ROWS)
    tiny_wild.half(models, version="3")
    start = server.mark()
    server.process.send_signal(signal.SIGHUP)
    for _ in range(2):
        start += len(server.lines_since(start, until="models reloaded"))
    assert len([line for line in server.lines if re.search(FELL_BACK.format("stepper 3"), line)]) == 2
    fresh = step(server, ROWS)
    assert fresh["version"] == "3"
    np.testing.assert_allclose(fresh["outputs"]["y"], whole["outputs"]["y"], atol=CLOSE)
    workers = {int(line.split()[3]) for line in server.lines if "models reloaded" in line}
    counted = {int(re.findall(r"_(\d+)\.db", file.name)[0]) for file in scratch.glob("baton-metrics-*/*")}
    assert counted <= {server.process.pid, *workers}, "what a trial runs is not counted"
    server.stop()


def test_inspect_drafts_a_graph_that_dies_of_being_optimised_and_says_so(tmp_path: Path) -> None:
    drafted = baton("inspect", str(tiny_wild.half(tmp_path) / "model.onnx"), "--name", "narrow")
    assert drafted.returncode == 0
    assert re.search(FELL_BACK.format("narrow"), drafted.stderr.splitlines()[0])


def test_a_trial_ends_with_a_service_that_was_killed(tmp_path: Path) -> None:
    tiny_wild.endless(tmp_path / "models")
    own = {"BATON_MODELS_DIR": str(tmp_path / "models"), "BATON_STATE_DIR": str(tmp_path / "state"), "BATON_PORT": "0"}
    command = [sys.executable, "-m", "service", "serve"]
    with subprocess.Popen(command, env={**os.environ, **own}, cwd=ROOT, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        child = process_that_tries(next(line for line in service.stderr if "trying stepper 2" in line))
        service.kill()
        service.stderr.read()  # to its end, which is there when nobody holds it any more
    assert not lives(child)


def test_a_version_that_changed_since_its_trial_is_refused(tmp_path: Path) -> None:
    directory = tiny.stepper(tmp_path, seed=1)
    (tried,) = vouched(tmp_path)
    shutil.rmtree(directory)
    tiny.stepper(tmp_path, seed=2)
    with pytest.raises(ManifestError, match=r"sha256: is .* hashes to"):
        load_tried(tried, Settings(), Metrics())


def test_a_version_that_came_through_a_trial_is_tried_again_only_if_it_changed(tmp_path: Path) -> None:
    directory, settings = tiny_wild.crashing(tmp_path), Settings()
    done = vouched(tmp_path)
    assert list(try_versions([directory], settings, Trial(settings), done)) == done
    manifest = directory / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "description": "better"}))
    with pytest.raises(ManifestError, match=CRASH.format("stepper 2")):
        list(try_versions([directory], settings, Trial(settings), done))


def test_a_process_that_tries_is_the_first_to_go_and_there_is_another_after_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Trial(Settings()) as trial:
        for work, says in (
            (works.leave, "the process that tries it ended itself with status 3"),
            (works.fail, "the trial failed, .* ZeroDivisionError"),
        ):
            with pytest.raises(StartupError, match=says):
                trial.run("it", tmp_path, work)
            assert trial.run("it", tmp_path, works.show_how_soon_the_kernel_ends_it) == ("1000", "all")
    assert "a mistake of ours" in capfd.readouterr().err
