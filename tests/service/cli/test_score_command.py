"""`baton score`: files of any number of rows into part files, the same results as the service's, nothing lost."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from commands import run
from conftest import LOG_LIMIT_S, ROOT, Server

pytestmark = pytest.mark.usefixtures("command_settings")

TEXTS = ["good film", "a bad one", None, "not good", "", "it was good, not bad"] * 4
ROWS = pa.table({"id": range(len(TEXTS)), "text": TEXTS})
CLOSE = 1e-5


def write(table: pa.Table, file: Path) -> Path:
    """Write a table as its file's ending says."""
    if file.suffix == ".parquet":
        pq.write_table(table, file, row_group_size=7)
    elif file.suffix == ".csv":
        pyarrow.csv.write_csv(table, file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return file


def parts(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("part-*")) for row in pq.read_table(file).to_pylist()]


def series(lengths: dict[str, int], features: int = 1) -> pa.Table:
    """Return rows of groups of such lengths."""
    rng = np.random.default_rng(5)
    names = [name for name, length in lengths.items() for _ in range(length)]
    values = {f"x{place}": rng.normal(size=len(names)).round(3) for place in range(features)}
    return pa.table({"name": names, **values})


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("part_rows", [5, 1000])
def test_rows_have_the_results_of_the_service_in_their_order_whatever_the_parts(
    ending: str, part_rows: int, tmp_path: Path, command_server: Server
) -> None:
    rows = ROWS.slice(0, 23)
    if ending == "csv":  # an empty cell is an empty text
        rows = rows.set_column(1, "text", rows["text"].fill_null(""))
    file, output = write(rows, tmp_path / f"rows.{ending}"), tmp_path / "out"
    ended = run("score", "sentiment", "-i", file, "-o", output, "--column", "text", "--part-rows", part_rows)
    found = parts(output)
    assert [str(row["id"]) for row in found] == [str(number) for number in range(23)]
    assert [row["text"] for row in found] == rows["text"].to_pylist()
    asked = [text or "" for text in rows["text"].to_pylist()]
    answers = [command_server.post("/v1/sentiment", {"inputs": [text]}).json()["results"][0] for text in asked]
    for row, answer in zip(found, answers, strict=True):
        if "error" in answer:
            assert row["error"].startswith(answer["error"]["code"])
            assert row["label"] is None
        else:
            assert (row["error"], row["label"], row["tokens"]) == (None, answer["label"], answer["tokens"])
            assert row["score"] == pytest.approx(answer["score"], abs=CLOSE)
            assert row["polarity"] == pytest.approx(answer["polarity"], abs=CLOSE)
    failed = [row for row in found if row["error"]]
    assert (ended.status, len(failed)) == (1, 8)
    assert f"baton: {file}, row 3: empty_input: " in ended.stderr
    assert "8 failed; the column error has the reasons" in ended.stderr
    assert json.loads((output / "_done.json").read_text()) == {"rows": 23}


def test_the_first_row_that_fails_ends_a_strict_job_and_whole_parts_stay(tmp_path: Path) -> None:
    file, output = write(ROWS, tmp_path / "rows.parquet"), tmp_path / "out"
    options = ("score", "sentiment", "-i", file, "-o", output, "--column", "text", "--strict", "--processes", 1)
    ended = run(*options, "--part-rows", 2)
    assert (ended.status, f"{file}, row 3: empty_input" in ended.stderr) == (1, True)
    assert [row["id"] for row in parts(output)] == [0, 1]
    assert not (output / "_done.json").exists()


def test_a_job_that_was_killed_goes_on_and_has_every_row_once(tmp_path: Path) -> None:
    """Its processes end with it."""
    rows = pa.table({"id": range(40_000), "text": ["it was good, not bad, a film"] * 40_000})
    file, output = write(rows, tmp_path / "rows.parquet"), tmp_path / "out"
    options = ["score", "sentiment", "-i", str(file), "-o", str(output), "--column", "text", "--part-rows", "500"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "service", *options, "--processes", "1"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + LOG_LIMIT_S
        while len(list(output.glob("part-*"))) < 3:
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.02)
        with open(f"/proc/{killed.pid}/task/{killed.pid}/children") as children:
            (server,) = [int(child) for child in children.read().split() if _is_forkserver(int(child))]
        with open(f"/proc/{server}/task/{server}/children") as children:
            (engine,) = [int(child) for child in children.read().split()]
    finally:
        killed.kill()
        killed.wait()
    _wait_for_end(server)
    _wait_for_end(engine)  # which may write a part until then
    done = {file.name: file.stat().st_mtime_ns for file in output.glob("part-*")}
    assert 3 <= len(done) < 80
    assert run(*options).status == 1  # it is not resumed by accident
    ended = run(*options, "--resume")
    assert ended.status == 0
    assert f"{500 * len(done):,} were there" in ended.stderr
    assert [row["id"] for row in parts(output)] == list(range(40_000))
    assert {name: (output / name).stat().st_mtime_ns for name in done} == done


def _is_forkserver(pid: int) -> bool:
    return b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _wait_for_end(pid: int) -> None:
    """Wait until a process that is not a child of this has ended."""
    deadline = time.monotonic() + LOG_LIMIT_S
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_another_job_is_not_taken_for_one_that_was_interrupted(tmp_path: Path) -> None:
    file, output = write(ROWS.slice(0, 2), tmp_path / "rows.parquet"), tmp_path / "out"
    assert run("score", "sentiment", "-i", file, "-o", output, "--column", "text").status == 0
    again = run("score", "sentiment", "-i", file, "-o", output, "--column", "text", "--scores", "--resume")
    assert (again.status, "is of another job: its options was" in again.stderr) == (1, True)
    write(ROWS, file)
    again = run("score", "sentiment", "-i", file, "-o", output, "--column", "text", "--resume")
    assert (again.status, "is of another job: its input was" in again.stderr) == (1, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    mine = run("score", "sentiment", "-i", file, "-o", tmp_path / "mine", "--column", "text")
    assert (mine.status, "holds other files" in mine.stderr) == (1, True)


def test_series_have_the_forecasts_of_the_service(tmp_path: Path, command_server: Server) -> None:
    rows = series({"a": 12, "b": 30, "short": 1, "c": 9})
    file, output = write(rows, tmp_path / "rows.csv"), tmp_path / "out"
    options = ["--id", "name", "--value", "x0", "--horizon", 3, "--part-rows", 10]
    ended = run("score", "forecast", "-i", file, "-o", output, *options)
    found = parts(output)
    asked = [
        {"values": [row["x0"] for row in rows.to_pylist() if row["name"] == name]} for name in ("a", "b", "short", "c")
    ]
    calls = [{"series": [each], "horizon": 3} for each in asked]
    answers = [command_server.post("/v1/forecast", call).json()["results"][0] for call in calls]
    for name, answer in zip(("a", "b", "short", "c"), answers, strict=True):
        own = [row for row in found if row["name"] == name]
        if "error" in answer:
            assert [row["step"] for row in own] == [None]
            assert own[0]["error"].startswith(answer["error"]["code"])
            assert f"name {name}: {own[0]['error']}" in ended.stderr
            continue
        assert [row["step"] for row in own] == [1, 2, 3]
        np.testing.assert_allclose([row["mean"] for row in own], answer["mean"], atol=CLOSE)
        low, high = min(answer["quantiles"], key=float), max(answer["quantiles"], key=float)
        level = f"{round(100 - 200 * float(low)):g}"
        np.testing.assert_allclose([row[f"lower_{level}"] for row in own], answer["quantiles"][low], atol=CLOSE)
        np.testing.assert_allclose([row[f"upper_{level}"] for row in own], answer["quantiles"][high], atol=CLOSE)
    assert ended.status == 1


def test_a_number_that_is_missing_or_not_finite_is_a_gap_whose_place_is_told(tmp_path: Path) -> None:
    values: list[float | None] = [float(each) for each in range(12)]
    gone, endless = [*values[:5], None, *values[6:]], [*values[:7], math.inf, *values[8:]]
    rows = pa.table({"name": ["gone"] * 12 + ["endless"] * 12 + ["whole"] * 12, "x0": [*gone, *endless, *values]})
    file, output = write(rows, tmp_path / "rows.parquet"), tmp_path / "out"
    assert (
        run("score", "forecast", "-i", file, "-o", output, "--id", "name", "--value", "x0", "--horizon", 2).status == 1
    )
    found = [(row["name"], row["step"], (row["error"] or "").partition(";")[0]) for row in parts(output)]
    assert found == [
        ("gone", None, "missing_values: 1 values are null, the first at 5"),
        ("endless", None, "missing_values: 1 values are null, the first at 7"),
        ("whole", 1, ""),
        ("whole", 2, ""),
    ]


def test_sessions_that_were_warmed_up_go_on_at_the_service(tmp_path: Path, command_server: Server) -> None:
    """As if every step had been taken there; sessions longer than a request may be, too."""
    lengths = {"a": 3, "b": 10, "c": 41}
    rows = series(lengths, features=2)
    file, output = write(rows, tmp_path / "rows.parquet"), tmp_path / "out"
    options = ["--id", "name", "--value", "x0", "--value", "x1", "--states", "--part-rows", 20]
    assert run("score", "stepper", "-i", file, "-o", output, *options).status == 0
    warm = parts(output)
    assert [(row["name"], row["step"]) for row in warm] == [*lengths.items()]
    items = [{"state": row["state"], "inputs": [[0.5, -0.5]]} for row in warm]
    live = command_server.post("/v1/step", {"model": "stepper", "items": items}).json()["results"]
    for row, went_on in zip(warm, live, strict=True):
        steps = [[r["x0"], r["x1"]] for r in rows.to_pylist() if r["name"] == row["name"]]
        state, whole = None, None
        for start in range(0, len(steps), 4):
            item = {"inputs": steps[start : start + 4], **({"state": state} if state else {})}
            whole = command_server.post("/v1/step", {"model": "stepper", "items": [item]}).json()["results"][0]
            state = whole["state"]
        assert whole is not None
        np.testing.assert_allclose(row["y"], whole["outputs"]["y"], atol=CLOSE)
        item = {"state": state, "inputs": [[0.5, -0.5]]}
        after = command_server.post("/v1/step", {"model": "stepper", "items": [item]}).json()["results"][0]
        assert went_on["step"] == after["step"] == len(steps) + 1
        np.testing.assert_allclose(went_on["outputs"]["y"], after["outputs"]["y"], atol=CLOSE)


def test_tags_translations_and_labels_of_series_are_those_of_the_service(
    sequence_models: Path,
    sequence_server: Server,
    conditioned_models: Path,
    conditioned: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = write(pa.table({"text": ["one two", "three"]}), tmp_path / "texts.parquet")
    monkeypatch.setenv("BATON_MODELS_DIR", str(sequence_models))
    assert run("score", "tagger", "-i", texts, "-o", tmp_path / "tags", "--column", "text", "--scores").status == 0
    body = {"model": "tagger", "inputs": ["one two", "three"], "scores": "all"}
    for row, answer in zip(
        parts(tmp_path / "tags"), sequence_server.post("/v1/tag", body).json()["results"], strict=True
    ):
        assert row["unknown_ratio"] == answer["unknown_ratio"]
        for token, other in zip(row["tokens"], answer["tokens"], strict=True):
            assert {**token, "score": 0, "scores": 0} == {**other, "score": 0, "scores": 0}
            assert token["scores"] == pytest.approx(other["scores"], abs=CLOSE)
    rows = write(series({"a": 12, "b": 16}), tmp_path / "rows.csv")
    options = ["--id", "name", "--value", "x0", "--scores"]
    assert run("score", "listener", "-i", rows, "-o", tmp_path / "labels", *options).status == 0
    values = [[row["x0"] for row in series({"a": 12, "b": 16}).to_pylist() if row["name"] == name] for name in "ab"]
    body = {"model": "listener", "items": [{"values": each} for each in values], "scores": "all"}
    for row, answer in zip(
        parts(tmp_path / "labels"), sequence_server.post("/v1/classify", body).json()["results"], strict=True
    ):
        assert row["label"] == answer["label"]
        assert row["scores"] == pytest.approx(answer["scores"], abs=CLOSE)
    monkeypatch.setenv("BATON_MODELS_DIR", str(conditioned_models))
    monkeypatch.delenv("BATON_MAX_STEPS")
    texts = write(pa.table({"text": ["abc de", "gfe", "cabbage"]}), tmp_path / "letters.parquet")
    assert run("score", "translate", "-i", texts, "-o", tmp_path / "translations", "--column", "text").status == 0
    answers = conditioned.post("/v1/translate", {"inputs": ["abc de", "gfe", "cabbage"]}).json()["results"]
    for row, answer in zip(parts(tmp_path / "translations"), answers, strict=True):
        assert (row["translation"], row["finish"], row["tokens"]) == (
            answer["text"],
            answer["finish"],
            answer["tokens"],
        )
        assert row["score"] == pytest.approx(answer["score"], abs=2e-4)


def test_files_are_found_by_folder_pattern_and_url(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for place, name in enumerate(("a.parquet", "b.parquet", "deep/c.parquet", "_SUCCESS.parquet", ".d.parquet")):
        write(pa.table({"id": [place], "text": ["good"]}), folder / name)

    def ids(place: object, output: str) -> list[int]:
        ended = run("score", "sentiment", "-i", place, "-o", output, "--column", "text", "--keep", "id")
        assert ended.status == 0, ended.stderr
        return [row["id"] for row in parts(Path(output.rpartition("://")[2]))]

    assert ids(folder, str(tmp_path / "1")) == [0, 1, 2]
    assert ids(folder / "[ab]*.parquet", str(tmp_path / "2")) == [0, 1]
    assert ids(f"file://{folder}/b.parquet", f"file://{tmp_path}/4") == [1]
    assert ids(f"file://{folder}/[ab].parquet", f"file://{tmp_path}/5") == [0, 1]
    assert ids(f"local://{folder}/b.parquet", f"local://{tmp_path}/6") == [1]  # a scheme that only fsspec knows


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sentiment"], "sentiment reads texts; name their column with --column"),
        (["sentiment", "--column", "words"], "has no column 'words'; it has id, text"),
        (["sentiment", "--column", "text", "--keep", "id,mark"], "has no column 'mark'; it has id, text"),
        (["sentiment", "--column", "text", "--horizon", "3"], "--horizon is not for sentiment"),
        (["nobody", "--column", "text"], "holds no nobody/<version>/manifest.json"),
        (["forecast", "--id", "id", "--value", "text"], "how many values"),
        (["forecast", "--horizon", "2"], "tells them apart with --id"),
        (["stepper", "--column", "text"], "--column is not for stepper"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_written(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    file = write(ROWS, tmp_path / "rows.parquet")
    ended = run("score", *arguments, "-i", file, "-o", tmp_path / "out")
    assert (ended.status, says in ended.stderr) == (1, True), ended.stderr
    assert not list(tmp_path.glob("out/part-*"))


def test_input_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def refused(place: object, *options: object) -> str:
        ended = run("score", "sentiment", "-i", place, "-o", tmp_path / "out", "--column", "text", *options)
        assert ended.status == 1
        return ended.stderr

    assert "nowhere.csv is not there" in refused(tmp_path / "nowhere.csv")
    (tmp_path / "rows").write_text("text\ngood\n")
    assert "say it with --format" in refused(tmp_path / "rows").lower()
    (tmp_path / "rows.parquet").write_text("text\ngood\n")
    assert f"{tmp_path}/rows.parquet cannot be read: " in refused(tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("id,text\n1,good\n2,good,bad\n")
    assert "Expected 2 columns, got 3: 2,good,bad" in refused(tmp_path / "rows.csv")
    assert (
        run(
            "score",
            "sentiment",
            "-i",
            write(ROWS.slice(0, 1), tmp_path / "well.parquet"),
            "-o",
            tmp_path / "out",
            "--column",
            "text",
        ).status
        == 0
    )
    assert "nonsense://bucket/rows.csv cannot be opened" in refused("nonsense://bucket/rows.csv")


def test_rows_of_a_group_that_stand_apart_are_refused(tmp_path: Path) -> None:
    rows = pa.concat_tables([series({"a": 5, "b": 5}), series({"a": 5})])
    file = write(rows, tmp_path / "rows.parquet")
    options = ["--id", "name", "--value", "x0", "--horizon", 2]
    ended = run("score", "forecast", "-i", file, "-o", tmp_path / "out", *options)
    assert (ended.status, "rows of name 'a' stand apart; sort the input by name first" in ended.stderr) == (1, True)


def test_names_of_groups_may_be_numbers_and_are_never_missing(tmp_path: Path) -> None:
    rows = pa.table({"name": [-1, -1, -2, -2, 0], "x0": [1.0, 2.0, 3.0, 4.0, 5.0]})
    options = ["--id", "name", "--value", "x0"]
    file = write(rows, tmp_path / "rows.parquet")
    assert run("score", "numbers", "-i", file, "-o", tmp_path / "out", *options, "--part-rows", 1).status == 0
    assert [(row["name"], row["step"]) for row in parts(tmp_path / "out")] == [(-1, 2), (-2, 2), (0, 1)]
    file = write(rows.set_column(0, "name", pa.array([1, 1, None, 2, 2])), file)
    ended = run("score", "numbers", "-i", file, "-o", tmp_path / "2", *options)
    assert (ended.status, "a row has no name" in ended.stderr) == (1, True)


def test_columns_of_the_input_are_not_covered_by_results(tmp_path: Path) -> None:
    file = write(pa.table({"text": ["good"], "label": ["mine"]}), tmp_path / "rows.parquet")
    ended = run("score", "sentiment", "-i", file, "-o", tmp_path / "out", "--column", "text")
    assert (ended.status, "the input has a column 'label'" in ended.stderr) == (1, True)
    assert run("score", "sentiment", "-i", file, "-o", tmp_path / "2", "--column", "text", "--keep", "text").status == 0
    assert [*parts(tmp_path / "2")[0]][:2] == ["text", "label"]


def test_parts_are_written_in_each_form(tmp_path: Path) -> None:
    when = pa.array([datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)])
    file = write(ROWS.slice(0, 3).append_column("when", when), tmp_path / "rows.parquet")
    options = ["score", "sentiment", "-i", file, "--column", "text", "--scores"]
    tables = {}
    for form in ("parquet", "csv", "jsonl"):
        run(*options, "-o", tmp_path / form, "--output-format", form)
        (part,) = (tmp_path / form).glob(f"part-*.{form}")
        tables[form] = part
    whole = [{**row, "when": str(row["when"])} for row in pq.read_table(tables["parquet"]).to_pylist()]
    assert [json.loads(line) for line in tables["jsonl"].read_text().splitlines()] == whole
    flat = pyarrow.csv.read_csv(tables["csv"]).to_pylist()
    assert [json.loads(row["scores"]) for row in flat[:2]] == [row["scores"] for row in whole[:2]]
    assert [row["label"] or None for row in flat] == [row["label"] for row in whole]


def test_a_process_that_ends_is_told_and_the_job_goes_on_later(tmp_path: Path) -> None:
    rows = pa.table({"id": range(40_000), "text": ["it was good, not bad, a film"] * 40_000})
    file, output = write(rows, tmp_path / "rows.parquet"), tmp_path / "out"
    options = ["score", "sentiment", "-i", str(file), "-o", str(output), "--column", "text", "--part-rows", "500"]
    command = [sys.executable, "-m", "service", *options, "--processes", "1"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + LOG_LIMIT_S
    while len(list(output.glob("part-*"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with open(f"/proc/{running.pid}/task/{running.pid}/children") as children:
        (server,) = [int(child) for child in children.read().split() if _is_forkserver(int(child))]
    with open(f"/proc/{server}/task/{server}/children") as children:
        os.kill(int(children.read().split()[0]), signal.SIGKILL)
    _, told = running.communicate()
    assert running.returncode == 1
    assert "a process that scores ended" in told
    assert "--resume goes on" in told


def test_a_job_that_goes_on_tells_what_failed_before(tmp_path: Path) -> None:
    file, output = write(ROWS.slice(0, 6), tmp_path / "rows.parquet"), tmp_path / "out"
    options = ["score", "sentiment", "-i", file, "-o", output, "--column", "text", "--part-rows", 3]
    assert run(*options).status == 1
    (output / "part-00000-000001.parquet").unlink()
    ended = run(*options, "--resume")
    assert (ended.status, "2 failed; the column error has the reasons" in ended.stderr) == (1, True)
    assert [row["error"] is None for row in parts(output)] == [True, True, False, True, False, True]
    again = run(*options, "--resume", "--strict")
    assert (again.status, "is of another job: its options" in again.stderr) == (1, True)


def test_text_of_json_lines_stays_text_and_members_may_come_and_go(tmp_path: Path) -> None:
    file, output = tmp_path / "rows.jsonl", tmp_path / "out"
    rows = [{"text": "2024-05-01", "day": "2024-01-02"}, {"text": None, "note": 1}, {"text": "good film", "note": 1.5}]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    run("score", "sentiment", "-i", file, "-o", output, "--column", "text")
    found = parts(output)
    assert [row["text"] for row in found] == ["2024-05-01", None, "good film"]
    assert [row["day"] for row in found] == ["2024-01-02", None, None]
    assert [row["note"] for row in found] == [None, 1.0, 1.5]
    assert [row["error"] is None for row in found] == [True, False, True]


def test_columns_of_csv_are_text_whatever_stands_about_their_names(tmp_path: Path) -> None:
    file, output = tmp_path / "rows.csv", tmp_path / "out"
    file.write_text("text, zip\ngood film,00123\n")
    assert run("score", "sentiment", "-i", file, "-o", output, "--column", "text").status == 0
    assert parts(output)[0]["zip"] == "00123"


def test_files_without_a_byte_have_no_rows(tmp_path: Path) -> None:
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "c.jsonl").write_text('{"text": "good film"}\n')
    assert run("score", "sentiment", "-i", tmp_path / "*.*", "-o", tmp_path / "out", "--column", "text").status == 0
    assert [row["text"] for row in parts(tmp_path / "out")] == ["good film"]


WRONG = {
    "name a stands for a series in two files, of other types": (
        [pa.table({"name": [1] * 9, "x0": [0.5] * 9}), pa.table({"name": [1.0] * 9, "x0": [0.5] * 9})],
        ["--id", "name", "--value", "x0"],
        "rows of name '1' stand apart",
    ),
    "the id is named like a result": (
        [pa.table({"step": ["a"] * 9, "x0": [0.5] * 9})],
        ["--id", "step", "--value", "x0"],
        "--id step: the results have a column of that name",
    ),
    "values are text": (
        [pa.table({"name": ["a"] * 9, "x0": ["0.5"] * 9})],
        ["--id", "name", "--value", "x0"],
        "the column 'x0' holds string, not numbers",
    ),
    "names are lists": (
        [pa.table({"name": [["a"]] * 9, "x0": [0.5] * 9})],
        ["--id", "name", "--value", "x0"],
        "by which rows cannot be told apart",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_groups_that_cannot_be_told_are_refused(case: str, tmp_path: Path) -> None:
    tables, options, told = WRONG[case]
    files = [write(table, tmp_path / f"{number}.parquet") for number, table in enumerate(tables)]
    given = [part for file in files for part in ("-i", file)]
    ended = run("score", "forecast", *given, "-o", tmp_path / "out", *options, "--horizon", 2)
    assert (ended.status, told in ended.stderr) == (1, True), ended.stderr


def test_a_file_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    file = write(ROWS, tmp_path / "rows.parquet")
    ended = run("score", "sentiment", "-i", file, "-i", tmp_path, "-o", tmp_path / "out", "--column", "text")
    assert (ended.status, f"{file} is given twice" in ended.stderr) == (1, True)


def test_a_models_directory_that_cannot_be_served_is_named(tmp_path: Path, tiny_models: Path) -> None:
    models = tmp_path / "models"
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "manifest.json").write_text("{}")
    (models / "sentiment").symlink_to(tiny_models / "sentiment")
    file = write(ROWS.slice(0, 2), tmp_path / "rows.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATON_MODELS_DIR", str(models))
        ended = run("score", "sentiment", "-i", file, "-o", tmp_path / "out", "--column", "text")
    assert (ended.status, "broken/1/manifest.json" in ended.stderr) == (1, True)
    assert "want of memory" not in ended.stderr
