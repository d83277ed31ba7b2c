"""`baton forecast`: series from wherever they come, made even, forecast as the API does, written and drawn."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from commands import run
from conftest import Server

pytestmark = pytest.mark.usefixtures("command_settings")

NORTH, SOUTH = [3.0, 1.0, 4.0, 1.5, 5.0], [2.0, 7.0, 1.0, 8.0]
MONTHS = ["2026-01-01", "2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01"]


def sales(folder: Path, *rows: tuple[object, ...], head: str = "date,store,y") -> Path:
    file = folder / "sales.csv"
    file.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return file


def both(folder: Path) -> Path:
    north = [(month, "north", value) for month, value in zip(MONTHS, NORTH, strict=True)]
    south = [(month, "south", value) for month, value in zip(MONTHS[1:], SOUTH, strict=True)]
    return sales(folder, *north, *south)


def test_a_forecast_is_that_of_the_api_in_process_and_at_a_service(command_server: Server, tmp_path: Path) -> None:
    arguments = ["forecast", both(tmp_path), "--column", "y", "--time", "date", "--by", "store", "--horizon", 2]
    here, there = run(*arguments), run(*arguments, "--url", command_server.url)
    assert here.stderr == there.stderr == "frequency of 2 series: MS (found in date)\n"
    series = [
        {"values": NORTH, "start": "2026-01-01T00:00:00", "freq": "MS"},
        {"values": SOUTH, "start": "2026-02-01T00:00:00", "freq": "MS"},
    ]
    results = command_server.post("/v1/forecast", {"horizon": 2, "series": series}).json()["results"]
    expected: list[dict[str, Any]] = [
        {
            "series": name,
            "step": step + 1,
            "timestamp": ["2026-06-01T00:00:00", "2026-07-01T00:00:00"][step],
            "mean": result["mean"][step],
            "lower_80": result["quantiles"]["0.1"][step],
            "upper_80": result["quantiles"]["0.9"][step],
        }
        for name, result in zip(("north", "south"), results, strict=True)
        for step in range(2)
    ]
    for rows in (here.rows, there.rows):
        assert [list(row) for row in rows] == [list(row) for row in expected]
        for row, due in zip(rows, expected, strict=True):
            assert {name: row[name] for name in ("series", "step", "timestamp")}.items() <= due.items()
            assert [row["mean"], row["lower_80"], row["upper_80"]] == pytest.approx(list(due.values())[3:], abs=1e-5)


def test_every_form_of_a_series_is_forecast_alike(tmp_path: Path) -> None:
    given = run("forecast", *NORTH, "--horizon", 2).rows
    (tmp_path / "series.txt").write_text("3, 1,4 1.5\t5\n")
    (tmp_path / "lists.jsonl").write_text(json.dumps(NORTH))
    (tmp_path / "objects.jsonl").write_text(json.dumps({"values": NORTH}))
    rows = "".join(json.dumps({"y": value}) + "\n" for value in NORTH)
    pyarrow.parquet.write_table(pyarrow.table({"y": NORTH}), tmp_path / "series.parquet")
    (tmp_path / "rows.jsonl").write_text(rows)
    for name, *options in (
        ("series.txt",),
        ("lists.jsonl",),
        ("objects.jsonl",),
        ("rows.jsonl", "--column", "y"),
        ("series.parquet", "--column", "y"),
    ):
        place = {} if options else {"line": 1}  # a series that stands on one line
        read = run("forecast", tmp_path / name, *options, "--horizon", 2).rows
        assert read == [{**place, **row} for row in given], name
    for levels in ([], ["--levels", "80"]):
        read = run("forecast", "--horizon", 2, *levels, stdin="3 1 4 1.5 5").rows
        assert read == [{"line": 1, **row} for row in given]


def test_times_are_sorted_and_their_values_with_them(tmp_path: Path) -> None:
    rows = list(zip(MONTHS, ["n"] * 5, NORTH, strict=True))
    even, mixed = tmp_path / "even", tmp_path / "mixed"
    even.mkdir()
    mixed.mkdir()
    options = ["--column", "y", "--time", "date", "--horizon", 2]
    ended = run("forecast", sales(mixed, *rows[3:], *rows[:3]), *options)
    assert ended.rows == run("forecast", sales(even, *rows), *options).rows
    assert ended.stderr.splitlines()[0] == "sorted by date"


@pytest.mark.parametrize(("how", "value"), [("mean", 2.0), ("last", 3.0), ("sum", 4.0)])
def test_times_that_stand_twice_are_refused_or_combined_as_asked(how: str, value: float, tmp_path: Path) -> None:
    rows = [(month, "n", number) for month, number in zip(MONTHS, NORTH, strict=True)]
    rows[1:2] = [(MONTHS[1], "n", 1.0), (MONTHS[1], "n", 3.0)]
    arguments = ["forecast", sales(tmp_path, *rows), "--column", "y", "--time", "date", "--horizon", 2]
    refused = run(*arguments)
    assert (refused.status, "2026-02-01T00:00:00 stands 2 times" in refused.stderr) == (1, True)
    combined = [row["mean"] for row in run(*arguments, "--duplicates", how).rows]
    plain = [row["mean"] for row in run("forecast", NORTH[0], value, *NORTH[2:], "--horizon", 2).rows]
    assert combined == pytest.approx(plain)


@pytest.mark.parametrize(("gaps", "value"), [("zero", 0.0), ("previous", 1.0), ("linear", 1.25)])
def test_gaps_are_refused_with_their_place_or_filled_as_asked(gaps: str, value: float, tmp_path: Path) -> None:
    left = [(month, "n", number) for month, number in zip(MONTHS, NORTH, strict=True) if month != MONTHS[2]]
    empty = [(month, "n", "" if month == MONTHS[2] else number) for month, number in zip(MONTHS, NORTH, strict=True)]
    plain = [row["mean"] for row in run("forecast", *NORTH[:2], value, *NORTH[3:], "--horizon", 2).rows]
    for rows, options, place in ((left, ["--time", "date"], "2026-03-01T00:00:00"), (empty, [], "line 4")):
        arguments = ["forecast", sales(tmp_path, *rows), "--column", "y", *options, "--horizon", 2]
        refused = run(*arguments)
        assert (refused.status, f"1 of 5 have no value, the first at {place};" in refused.stderr) == (1, True)
        assert [row["mean"] for row in run(*arguments, "--gaps", gaps).rows] == pytest.approx(plain)


def test_a_frequency_that_is_given_is_taken_and_must_hold_the_times(tmp_path: Path) -> None:
    rows = [(f"2026-01-0{day}", "n", day) for day in (1, 3, 5)]
    arguments = ["forecast", sales(tmp_path, *rows), "--column", "y", "--time", "date", "--horizon", 1]
    assert run(*arguments).stderr == "frequency: 2D (found in date)\n"
    given = run(*arguments, "--freq", "D", "--gaps", "linear")
    assert "frequency: D (as given)" in given.stderr
    assert given.rows[0]["timestamp"] == "2026-01-06T00:00:00"
    assert "2026-01-03T00:00:00 does not lie on 4D from 2026-01-01" in run(*arguments, "--freq", "4D").stderr


def test_dates_in_numbers_are_read_in_one_order_which_is_said(tmp_path: Path) -> None:
    file = sales(tmp_path, ("01/02/2026", "n", 1), ("02/02/2026", "n", 2), ("03/02/2026", "n", 3))
    arguments = ["forecast", file, "--column", "y", "--time", "date", "--horizon", 1]
    month_first = run(*arguments)
    assert month_first.rows[0]["timestamp"] == "2026-04-02T00:00:00"
    assert "01/02/2026 are read as 2026-01-02T00:00:00; --day-first" in month_first.stderr
    assert run(*arguments, "--day-first").rows[0]["timestamp"] == "2026-02-04T00:00:00"
    clock_first = [(f"10:30 0{day}/02/2026", "n", day) for day in (1, 2, 3)]
    sales(tmp_path, *clock_first)
    assert run(*arguments, "--day-first").rows[0]["timestamp"] == "2026-02-04T10:30:00"
    sales(tmp_path, ("13/02/2026", "n", 1), ("14/02/2026", "n", 2))
    assert "'13/02/2026' has no month 13; read it with --day-first" in run(*arguments).stderr


def test_a_series_that_cannot_be_forecast_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    file = tmp_path / "series.txt"
    file.write_text("1 2\n3 1 4 1.5 5\n1\n")
    ended = run("forecast", file, "--horizon", 1)
    assert (ended.status, len(ended.rows)) == (1, 1)
    assert [line.split(": ")[1] for line in ended.stderr.splitlines()] == [f"{file}, line 1", f"{file}, line 3"]
    assert "history_too_short" in ended.stderr


def test_a_series_that_cannot_be_read_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    bad: dict[str, tuple[list[tuple[str, object]], str]] = {
        "gap": ([(MONTHS[0], 1), (MONTHS[1], 2), (MONTHS[3], 3)], "series gap: 1 of 4 have no value"),
        "one": ([(MONTHS[0], 1)], "series one: one time has no frequency"),
        "cell": ([(MONTHS[0], "x"), (MONTHS[1], 2)], "'x' is no number"),
        "twice": ([(MONTHS[0], 1), (MONTHS[0], 2)], "series twice: 2026-01-01T00:00:00 stands 2 times"),
        "when": ([(MONTHS[0], 1), ("soon", 2)], "'soon' is no time"),
    }
    good = [(month, "good", value) for month, value in zip(MONTHS, NORTH, strict=True)]
    rows = [(month, name, value) for name, (rows, _) in bad.items() for month, value in rows]
    options = ["--column", "y", "--time", "date", "--by", "store", "--horizon", 1]
    ended = run("forecast", sales(tmp_path, *rows, *good), *options)
    assert (ended.status, [row["series"] for row in ended.rows]) == (1, ["good"])
    said = ended.stderr.splitlines()
    for _, reason in bad.values():
        assert sum(line.startswith("baton: ") and reason in line for line in said) == 1, reason
    assert "forecast" not in run("forecast", sales(tmp_path, *rows), *options).stdout
    lines = run(
        "forecast", "--format", "jsonl", "--horizon", 1, stdin=f'[1, "x"]\n{NORTH}\n{{"id": 5, "values": {NORTH}}}'
    )
    assert [(row["series"], row["line"]) for row in lines.rows] == [(None, 2), ("5", 3)]
    assert (lines.status, "stdin, line 1" in lines.stderr) == (1, True)


@pytest.mark.parametrize("day_first", [[], ["--day-first"]])
def test_dates_whose_year_stands_first_are_read_in_one_order(day_first: list[str], tmp_path: Path) -> None:
    options = ["--column", "y", "--time", "date", "--horizon", 1, *day_first]
    for form in ("{}/{:02}/01", "{}-{}-1", "{}.{}.01 00:00"):
        rows = [(form.format(2026, month), "n", month) for month in range(1, 13)]
        ended = run("forecast", sales(tmp_path, *rows), *options)
        assert ended.rows[0]["timestamp"] == "2027-01-01T00:00:00", form
    for date, reason in (
        ("26/01/05", "has a year of two digits"),
        ("2026/13/01", "has no month 13"),
        ("2026-01-01 00:00 EST", "has a zone by name; write its offset"),
    ):
        assert reason in run("forecast", sales(tmp_path, (date, "n", 1)), *options).stderr


def test_output_and_picture_are_written_as_their_endings_say(tmp_path: Path) -> None:
    arguments = ["forecast", both(tmp_path), "--column", "y", "--by", "store", "--horizon", 2]
    ended = run(*arguments, "--output", tmp_path / "next.csv", "--plot", tmp_path / "next.svg")
    assert (ended.status, ended.stdout) == (0, "")
    with (tmp_path / "next.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [[float(row["mean"]), row["series"]] for row in written] == [
        [row["mean"], row["series"]] for row in run(*arguments).rows
    ]
    picture = (tmp_path / "next.svg").read_text()
    assert all(f">{label}<" in picture for label in ("north", "south", "history", "80 %", "mean"))
    run("forecast", *NORTH, "--horizon", 2, "--plot", tmp_path / "next.png")
    assert (tmp_path / "next.png").read_bytes().startswith(b"\x89PNG")
    rows = [(month, "$5_{ and $6", value) for month, value in zip(MONTHS, NORTH, strict=True)]
    options = ["--column", "y", "--by", "store", "--horizon", 1, "--plot", tmp_path / "one.svg"]
    assert run("forecast", sales(tmp_path, *rows), *options).status == 0
    picture = (tmp_path / "one.svg").read_text()
    assert ">$5_{ and $6<" in picture
    assert re.search(
        r'<path d="M [^"]*L [^"]*" clip-path[^>]* stroke: #1f77b4', picture
    )  # from the last observation on


def test_a_picture_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ended = run("forecast", *NORTH, "--horizon", 2, "--plot", tmp_path / "next.png")
    assert (ended.status, "pip install 'baton-serving[plot]'" in ended.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (["1", "2", "x"], "", "the series: 'x' is no number"),
        (["1", "2", "1_000"], "", "the series: '1_000' is no number"),
        (["--format", "jsonl", "--column", "y"], '{"y": 1}\n{"y": true}\n', "stdin, line 2: True is no number"),
        (["--format", "csv", "--column", "y"], "y\n1\n1_000\n", "stdin, line 3: '1_000' is no number"),
        (["1", "2", "inf"], "", "'inf' is not finite"),
        (["nowhere.csv"], "", "nowhere.csv is no file"),
        (["--format", "csv"], "y\n1\n", "name the column of values in stdin with --column"),
        (["--format", "csv", "--column", "y"], "y\n1\nx\n", "stdin, line 3: 'x' is no number"),
        (["--format", "csv", "--column", "y"], "y\n", "stdin has no rows"),
        (["--format", "csv", "--column", "y", "--time", "d"], "d,y\nsoon,1\n", "'soon' is no time, such as 2026-01-31"),
        (["--format", "csv", "--column", "y", "--time", "d"], "d,y\n12:30,1\n", "'12:30' has no year"),
        (["--format", "csv", "--column", "y", "--time", "d"], "d,y\n2026-01-01,1\n", "one time has no frequency"),
        (
            ["--format", "csv", "--column", "y", "--time", "d"],
            "d,y\n2020-01-01,1\n2022-06-17T08:00:00.000001,2\n2026-01-01,3\n",
            "at the coarsest frequency that holds all, us, 189388799999998 of 189388800000001 times have no value",
        ),
        (["--format", "jsonl"], "5\n", 'stdin, line 1: no series; it is a list, or an object with "values"'),
        (["--format", "jsonl"], '{"values": [1, 2], "frequency": "D"}\n', "line 1: a series has no member 'frequency'"),
        (["--format", "jsonl", "--column", "y", "--by", "s"], '{"y": 1, "s": null}\n', "stdin, line 1: no 's', which"),
        (["--format", "csv", "--column", "y"], "y,y\n1,2\n", "stdin has 2 columns 'y'"),
        (["--format", "csv", "--column", "y"], "", "stdin is empty"),
        (["--format", "csv", "--column", "y", "--time", "d", "--freq", "x"], "d,y\n", "--freq: 'x' is no frequency"),
        (
            ["--format", "csv", "--column", "y", "--time", "d", "--freq", "s", "--gaps", "zero"],
            "d,y\n2020-01-01,1\n2021-01-01,2\n",
            "--freq s makes 31622401 times, of which 2 have a value",
        ),
        (["1", "2", "3", "--plot", "out.pdf"], "", "--plot out.pdf must end with .png or .svg"),
        (["1", "2", "3", "--by", "store"], "", "name the column of values with --column"),
        (["1", "2", "3", "--column", "y"], "", "several arguments are the numbers of a series"),
        (["--column", "y", "--freq", "D"], "", "name their column with --time"),
        (["1", "2", "3", "--levels", "95"], "", "(see docs/errors.md#quantile_unavailable)"),
        (["1", "2", "3", "--model", "sentiment"], "", "(see docs/errors.md#wrong_task)"),
    ],
)
def test_what_will_not_do_is_one_line_that_says_what_would(arguments: list[str], stdin: str, says: str) -> None:
    ended = run("forecast", *arguments, "--horizon", 1, stdin=stdin)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_times_with_offsets_that_differ_are_read_in_utc_and_some_without_refused() -> None:
    options = ["forecast", "--format", "csv", "--column", "y", "--time", "d", "--horizon", 1]
    ended = run(*options, stdin="d,y\n2026-03-29T00:00+01:00,1\n2026-03-29T03:00+02:00,2\n2026-03-29T05:00+02:00,3\n")
    assert ended.rows[0]["timestamp"] == "2026-03-29T05:00:00+00:00"
    ended = run(*options, stdin="d,y\n2026-03-29T00:00+01:00,1\n2026-03-29T03:00,2\n")
    assert "some times have an offset from UTC, and some have none" in ended.stderr
