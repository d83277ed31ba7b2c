"""Where Forecast's series come from: CSV as people have it, files, drawings; their times and frequency."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pandas
import pytest
from browsing import Visit
from conftest import Server
from forecasting import TEXT, WEEKLY, WEEKS, asked, forecast_after, opened, traces, write
from playwright.sync_api import expect

READ_SERIES = "text => import('/page/series.js').then(({readSeries}) => readSeries(text))"

UNREADABLE = [
    ("", "Line 1, column 1", "there is nothing here"),
    ("a,b\n1,2\n3", "Line 3, column 2", "1 cell, where line 1 has 2"),
    ("a;b\n1;2\n3;4,5", "Line 3, column 2", "'4,5' in 'b' is not a number"),
    ("1\n2\n1e999", "Line 3, column 1", "is not a number"),
    ("a,a\n1,2", "Line 1, column 2", "a second column of the name 'a'"),
    ('a,b\n1,"2\n3', "Line 2, column 2", "a quote that is opened here is never closed"),
    ("day,y\n2026-01-02,1\n2026-01-02,2", "Line 3, column 1", "'2026-01-02' does not come after '2026-01-02'"),
    ("day,y\n2026-01-02,1\nFriday,2", "Line 3, column 1", "'Friday' is not a time"),
    ("day,y\n2026-02-30,1", "Line 2, column 1", "'2026-02-30' is not a time"),
    ("time,y\n0.5,1\n0.6,2", "Line 2, column 1", "'time' is the name of a column of times"),
    ("-\n5\n6\n7", "Line 1, column 1", "'-' in 'series' is not a number"),
    ("2026-01-01,x\n2026-01-02,5", "Line 1, column 2", "'x' in 'column 2' is not a number"),
    ("store,2020,2021\na,1,2", "Line 1, column 1", "a line of names has letters, and no number, time or gap"),
    ('visits\n5\n"1"2', "Line 3, column 1", "'2' after a closing quote"),
    ('"a"x\n5', "Line 1, column 1", "'x' after a closing quote"),
    ("# of the shop\n5\n6", "Line 1, column 1", "a comment; take it out"),
    ("2026-01-02\n2026-01-03", "Line 1, column 1", "needs a column of values"),
    ("only,names", "Line 2, column 1", "names of columns need lines of values"),
]


def test_a_csv_that_cannot_be_read_is_refused_with_its_place(visit: Visit) -> None:
    """Nothing of the forecast before stays, and the mended text is read."""
    page = opened(visit)
    alert = page.get_by_role("alert")
    for text, where, what in UNREADABLE:
        page.get_by_label(TEXT).fill(text)
        expect(alert).to_contain_text(f"{where}: ")
        expect(alert).to_contain_text(what)
    page.wait_for_function("() => document.querySelector('#panel-forecast .chart').data.length === 0")
    expect(page.get_by_role("button", name="Download CSV")).to_be_disabled()
    write(page, WEEKLY)
    expect(alert).to_have_count(0)
    expect(page.get_by_role("button", name="Download CSV")).to_be_enabled()


def test_files_are_chosen_or_dropped(visit: Visit, tmp_path: Path) -> None:
    page = opened(visit)
    file = tmp_path / "sales.csv"
    file.write_bytes("\ufeff".encode() + WEEKLY.replace("\n", "\r\n").encode())
    request, _ = forecast_after(page, lambda: page.get_by_label("or a file").set_input_files(file))
    assert request["series"] == [{"id": "sales", "values": WEEKS, "start": "2026-01-05", "freq": "W"}]
    drop = """text => {
      const data = new DataTransfer();
      data.items.add(new File([text], "dropped.csv", {type: "text/csv"}));
      const place = document.querySelector(".drop");
      for (const type of ["dragover", "drop"]) {
        place.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
      }
    }"""
    dropped = WEEKLY.replace("sales", "visits").replace(",120", ",121")
    request, _ = forecast_after(page, lambda: page.evaluate(drop, dropped))
    assert request["series"][0]["id"] == "visits"
    assert request["series"][0]["values"] == [121, *WEEKS[1:]]
    assert page.get_by_label(TEXT).input_value() == dropped
    file.write_bytes("Größe\n1\n".encode("latin-1"))
    page.get_by_label("or a file").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text("sales.csv is no text in UTF-8")


def test_a_series_is_drawn_with_the_mouse(visit: Visit) -> None:
    """From the left edge, half way up, to the right edge at the top: the values are there to be edited."""
    page = opened(visit)
    place = page.locator(".drawing")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box is not None

    def draw() -> None:
        page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 1, steps=20)
        page.mouse.up()

    request, _ = forecast_after(page, draw)
    (series,) = request["series"]
    assert series["id"] == "drawn"
    assert len(series["values"]) == 60
    assert series["values"] == pytest.approx([50 + 50 * index / 59 for index in range(60)], abs=2)
    assert page.get_by_label(TEXT).input_value().split() == ["drawn", *(f"{value:g}" for value in series["values"])]
    assert traces(page)["drawn"]["x"] == list(range(1, 61))


FREQUENCIES = {
    "MS": "MS", "ME": "ME", "2MS": "2MS", "B": "B", "D": "D", "3D": "3D", "W": "W-THU", "h": "h", "15min": "15min",
    "12ME": "12ME", "30s": "30s", "250ms": "250ms",
}  # fmt: skip


def test_frequencies_are_found_and_histories_lie_on_the_service_s_times(visit: Visit, page_server: Server) -> None:
    """The history's times are pandas', and the first of the forecast is the next one."""
    page = visit.open("#forecast")
    times = (
        "([start, freq, count]) => import('/page/frequency.js').then(({timesFrom}) => timesFrom(start, freq, count))"
    )
    for found, freq in FREQUENCIES.items():
        moments = pandas.date_range("2026-01-01", periods=30, freq=freq)
        table = page.evaluate(
            READ_SERIES, "time,y\n" + "".join(f"{moment.isoformat()},{moment.day}\n" for moment in moments)
        )
        assert (table["start"], table["freq"]) == (moments[0].isoformat(), found)
        shown = page.evaluate(times, [table["start"], found, 31])
        assert [datetime.fromisoformat(moment) for moment in shown[:30]] == list(moments)
        series = {"values": table["series"][0]["values"], "start": table["start"], "freq": found}
        (result,) = asked(page_server, model="forecast", series=[series], horizon=1)
        assert datetime.fromisoformat(result["timestamps"][0]) == datetime.fromisoformat(shown[30])


def test_times_that_are_left_out_are_gaps(visit: Visit) -> None:
    page = opened(visit)
    lines = WEEKLY.splitlines(keepends=True)
    request, _ = write(page, "".join(line for index, line in enumerate(lines) if index not in (5, 9)))
    values = [None if index in (5, 9) else value for index, value in enumerate(WEEKS, 1)]
    assert request["series"][0]["values"] == values
    expect(page.get_by_text("2 times are left out of the column of times")).to_be_visible()


def test_uneven_times_leave_the_forecast_without_times(visit: Visit) -> None:
    page = opened(visit)
    days = [1, 2, 4, 7, 11, 16, 22, 23, 26, 31]
    request, answer = write(page, "".join(f"2026-01-{day:02},{day}\n" for day in days))
    assert request["series"] == [{"id": "column 2", "values": days}]
    assert "timestamps" not in answer["results"][0]
    expect(page.get_by_text("The times are not evenly spaced")).to_be_visible()
    assert traces(page)["column 2, mean"]["x"] == list(range(11, 35))


def test_start_and_frequency_can_be_changed(visit: Visit) -> None:
    page = opened(visit)
    write(page, "\n".join(map(str, WEEKS)))
    forecast_after(page, lambda: page.get_by_label("First time").fill("2026-03-31"))
    _, answer = forecast_after(page, lambda: page.get_by_label("Frequency").fill("QE"))
    assert answer["results"][0]["timestamps"][0] == "2031-09-30T00:00:00"
    visit.expected.append("status of 422")
    page.get_by_label("Frequency").fill("fortnight")
    expect(page.get_by_role("alert")).to_contain_text("field series[0].freq")


READ: list[tuple[str, str, dict[str, list[float | None]], str]] = [
    ("2026-01-01,n/a\n2026-01-02,5", "D", {"column 2": [None, 5]}, "Times: column 1, from 2026-01-01 to 2026-01-02"),
    ("a,b\n1,2\n,\n,\n\n", "", {"a": [1, None, None], "b": [2, None, None]}, "2 series of 3 values each: a, b."),
    ("\n\na;b\n1;2\n\n3;4\n", "", {"a": [1, 3], "b": [2, 4]}, "No column of times."),
    ("sep=;\na;b\n1;2", "", {"a": [1], "b": [2]}, "2 series of 1 value each: a, b."),
    ("sales\n1\n\n3\n\n", "", {"sales": [1, None, 3]}, "One series of 3 values: sales."),
    ("year,sales\n2000,5\n2001,6\n2003,7", "12MS", {"sales": [5, 6, None, 7]}, "from 2000-01-01 to 2003-01-01"),
    ("2000,5\n2001,6\n2002,7", "12MS", {"column 2": [5, 6, 7]}, "Times: column 1, from 2000-01-01 to 2002-01-01"),
    ("1900,5\n1950,6\n2001,7", "", {"column 1": [1900, 1950, 2001], "column 2": [5, 6, 7]}, "No column of times."),
    ("20260105,1\n20260106,2", "D", {"column 2": [1, 2]}, "Times: column 1, from 2026-01-05 to 2026-01-06"),
    ("1,5\n2,5", "", {"column 1": [1, 2], "column 2": [5, 5]}, "write decimals with a point"),
    ("1.5,2.5", "", {"series": [1.5, 2.5]}, "One series of 2 values: series."),
]


def test_what_was_taken_as_times_and_as_series_is_said(visit: Visit) -> None:
    page = opened(visit)
    for text, freq, series, note in READ:
        table = page.evaluate(READ_SERIES, text)
        assert {each["name"]: each["values"] for each in table["series"]} == series, text
        assert table["freq"] == freq, text
        assert note in " ".join(table["notes"]), text
    expect(page.get_by_text("Times: week, from 2024-01-01 to 2026-06-22, frequency W. One series of")).to_be_visible()


def test_a_long_column_of_times_is_read(visit: Visit) -> None:
    page = visit.open("#forecast")
    moments = pandas.date_range("2026-01-01", periods=200_000, freq="min")
    text = "".join(f"{moment},1\n" for moment in moments.strftime("%Y-%m-%dT%H:%M"))
    found = page.evaluate(f"text => ({READ_SERIES})(text).then(({{freq, start}}) => [freq, start])", text)
    assert found == ["min", "2026-01-01T00:00"]
    days = "".join(f"{1700 + month // 12}-{month % 12 + 1:02},1\n" for month in range(2400))
    assert page.evaluate(READ_SERIES, days)["freq"] == "MS"


def test_times_set_by_hand_stay_while_the_csv_is_edited(visit: Visit) -> None:
    """One without the other says why no times are forecast; another CSV, by a button, brings its own."""
    page = opened(visit)
    write(page, "\n".join(map(str, WEEKS)))
    forecast_after(page, lambda: page.get_by_label("First time").fill("2026-03-31"))
    expect(page.get_by_text("the first time needs a frequency too")).to_be_visible()
    forecast_after(page, lambda: page.get_by_label("Frequency").fill("D"))
    expect(page.get_by_text("the first time needs a frequency too")).to_have_count(0)
    request, _ = write(page, "\n".join(map(str, [*WEEKS, 180])))
    assert (request["series"][0]["start"], request["series"][0]["freq"]) == ("2026-03-31", "D")
    request, _ = write(page, WEEKLY)
    assert request["series"][0]["start"] == "2026-03-31"
    expect(page.get_by_text("Set by hand: first time 2026-03-31, frequency D.")).to_be_visible()
    request, _ = forecast_after(page, page.get_by_role("button", name="Hourly").click)
    assert (request["series"][0]["start"], request["series"][0]["freq"]) == ("2026-03-02T00:00", "h")


def test_a_click_draws_no_series(visit: Visit) -> None:
    page = opened(visit)
    place = page.locator(".drawing")
    before = page.get_by_label(TEXT).input_value()
    place.click()
    expect(page.locator(".drawn")).to_have_attribute("points", "")
    assert page.get_by_label(TEXT).input_value() == before
    assert len(visit.sent("/v1/forecast")) == 1
