"""Forecast: the fan that is drawn is what the service answers; its controls, and what it says where none comes."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence

import pytest
from browsing import Visit
from conftest import Server
from forecasting import TEXT, TOLERANCE, WEEKLY, WEEKS, asked, forecast_after, opened, traces, wait_for_means, write
from playwright.sync_api import expect


def test_the_fan_is_what_the_service_answers_for_the_csv(visit: Visit, page_server: Server) -> None:
    page = opened(visit)
    write(page, WEEKLY)
    assert page.get_by_label("First time").input_value() == "2026-01-05"
    assert page.get_by_label("Frequency").input_value() == "W"
    series = {"values": WEEKS, "start": "2026-01-05", "freq": "W"}
    (expected,) = asked(page_server, model="forecast", series=[series], horizon=24)
    drawn = traces(page)
    assert drawn["sales"]["y"] == WEEKS
    assert [moment[:10] for moment in drawn["sales"]["x"]] == [row.split(",")[0] for row in WEEKLY.split()[1:]]
    assert drawn["sales, mean"]["y"] == pytest.approx(expected["mean"], rel=TOLERANCE)
    for level, low, high in ((95, "0.025", "0.975"), (90, "0.05", "0.95"), (80, "0.1", "0.9"), (40, "0.3", "0.7")):
        for side, quantile in (("low", low), ("high", high)):
            trace = drawn[f"sales, {level} %, {side}"]
            assert trace["y"] == pytest.approx(expected["quantiles"][quantile], rel=TOLERANCE)
            assert trace["x"] == expected["timestamps"]
    assert "sales, 20 %, low" not in drawn


def test_examples_are_read_and_forecast(visit: Visit) -> None:
    page = opened(visit)
    found = {}
    for name in ("Hourly", "Constant", "Weekly"):
        request, _ = forecast_after(page, page.get_by_role("button", name=name, exact=True).click)
        (series,) = request["series"]
        found[name] = (series["freq"], len(series["values"]), "missing" in request)
    assert found == {"Hourly": ("h", 240, False), "Constant": ("D", 48, False), "Weekly": ("W", 130, False)}


def test_gaps_are_drawn_as_gaps_and_filled_as_chosen(visit: Visit, page_server: Server) -> None:
    """They are sent as null, for the service to fill; what it says about them is shown."""
    page = opened(visit)
    expect(page.get_by_label("Gaps are filled")).to_be_hidden()
    request, _ = forecast_after(page, page.get_by_role("button", name="With gaps").click)
    assert request["missing"] == "linear"
    north, south = request["series"]
    assert [index for index, value in enumerate(north["values"]) if value is None] == [9, 10, 27, 41]
    assert None not in south["values"]
    assert traces(page)["north"]["y"] == north["values"]
    request, answer = forecast_after(page, lambda: page.get_by_label("Gaps are filled").select_option("ffill"))
    assert request["missing"] == "ffill"
    drawn, expected = traces(page), asked(page_server, **request)
    for name, result, mine in zip(("north", "south"), expected, answer["results"], strict=True):
        assert drawn[f"{name}, mean"]["y"] == pytest.approx(result["mean"], rel=TOLERANCE)
        for warning in mine["warnings"]:
            expect(page.get_by_text(f"{name}: {warning}")).to_be_visible()
    assert answer["results"][0]["warnings"]
    page.get_by_label("Show").select_option("south")
    page.wait_for_function("() => document.querySelector('#panel-forecast .chart').data[0].name === 'south'")
    assert not any(name.startswith("north") for name in traces(page))


def test_what_the_service_refuses_is_shown_with_its_field(visit: Visit) -> None:
    visit.expected.append("status of 422")
    page = opened(visit)
    page.get_by_label(TEXT).fill("1\n2\n3")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("code history_too_short")
    expect(alert).to_contain_text("field series[0].values")


def test_a_series_that_fails_leaves_its_neighbours(visit: Visit) -> None:
    page = opened(visit)
    rows = [("", 3), *((value, 3) for value in WEEKS)]
    page.get_by_label(TEXT).fill("gap,level\n" + "".join(f"{one},{other}\n" for one, other in rows))
    expect(page.get_by_text("gap: the first value is null")).to_be_visible()
    page.wait_for_function(
        "() => document.querySelector('#panel-forecast .chart').data.some(t => t.name === 'level, mean')"
    )
    assert "gap, mean" not in traces(page)


def test_horizon_and_intervals_are_sliders_that_keys_move(visit: Visit) -> None:
    page = opened(visit)
    horizon, widest, narrowest = (page.get_by_role("slider", name=name) for name in ("Horizon", "Widest", "Narrowest"))
    request, answer = forecast_after(page, lambda: horizon.press("End"))
    assert request["horizon"] == len(answer["results"][0]["mean"]) == 48
    request, _ = forecast_after(page, lambda: horizon.press("ArrowLeft"))
    assert request["horizon"] == 47
    assert request["levels"] == [95, 90, 80, 60, 40]
    request, _ = forecast_after(page, lambda: narrowest.press("ArrowRight"))
    assert request["levels"] == [95, 90, 80, 60]
    request, _ = forecast_after(page, lambda: widest.press("Home"))
    assert request["levels"] == [20]
    expect(narrowest).to_have_attribute("aria-valuetext", "20 %")
    page.wait_for_function(
        "() => document.querySelector('#panel-forecast .chart').data"
        ".filter(({ name }) => name.endsWith('low')).length === 1"
    )
    request, _ = forecast_after(page, lambda: narrowest.press("End"))
    assert request["levels"] == [95]


def test_values_come_as_csv_and_as_a_table(visit: Visit) -> None:
    page = opened(visit)
    _, answer = write(
        page, "time,north,south\n" + "".join(f"{row},{index}\n" for index, row in enumerate(WEEKLY.split()[1:]))
    )
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download CSV").click()
    heading, *rows = csv.reader(io.StringIO(caught.value.path().read_text()))
    assert heading[:5] == ["series", "time", "mean", "95% low", "95% high"]
    expected = [
        [name, time, mean, result["quantiles"]["0.025"][step], result["quantiles"]["0.975"][step]]
        for name, result in zip(("north", "south"), answer["results"], strict=True)
        for step, (time, mean) in enumerate(zip(result["timestamps"], result["mean"], strict=True))
    ]
    assert [[*row[:2], *map(float, row[2:5])] for row in rows] == expected
    page.get_by_text("Values", exact=True).click()
    shown = page.locator("#panel-forecast table tbody tr")
    expect(shown).to_have_count(len(expected))
    name, time, mean, *_ = shown.nth(30).locator("td").all_inner_texts()
    assert (name, time) == tuple(expected[30][:2])
    assert float(mean.replace(",", "")) == pytest.approx(expected[30][2], rel=1e-4)


def test_the_chart_comes_as_png(visit: Visit) -> None:
    page = opened(visit)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download PNG").click()
    picture = caught.value.path().read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    width = page.evaluate("document.querySelector('#panel-forecast .chart').clientWidth")
    assert int.from_bytes(picture[16:20]) == 2 * width


CHANNELS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]


def csv_of(names: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in (names, *rows))


def test_a_model_of_channels_reads_the_columns_together(visit: Visit, page_server: Server) -> None:
    """They are put in the order of its names; it says what it needs where they do not fit."""
    page = opened(visit)
    page.get_by_role("combobox", name="Model").select_option("segrnn")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(
        f"segrnn reads 7 columns together, named {', '.join(CHANNELS)} in any order, and at least 720 lines"
    )
    expect(alert).to_contain_text("here is 1 column of 130 lines: visits.")
    rows = [[round(channel + math.sin(hour / (3 + channel)), 3) for channel in range(7)] for hour in range(720)]
    page.get_by_label(TEXT).fill(csv_of("abcdefg", rows))
    expect(alert).to_contain_text("here are 7 columns of 720 lines: a, b, c, d, e, f, g.")
    with page.expect_response("**/v1/forecast") as caught:
        page.get_by_label(TEXT).fill(csv_of(CHANNELS[::-1], [row[::-1] for row in rows]))
    (result,) = caught.value.json()["results"]
    wait_for_means(page, [list(channel) for channel in zip(*result["mean"], strict=True)])
    assert caught.value.request.post_data_json["series"] == [{"values": rows}]
    (expected,) = asked(page_server, model="segrnn", series=[{"values": rows}], horizon=24)
    drawn = traces(page)
    for channel, name in enumerate(CHANNELS):
        assert drawn[name]["y"] == [row[channel] for row in rows]
        assert drawn[f"{name}, mean"]["y"] == pytest.approx([row[channel] for row in expected["mean"]], rel=TOLERANCE)
    assert not any(name.endswith("high") for name in drawn)
    expect(page.get_by_text("Of more than 6 series no intervals are drawn: choose one.")).to_be_visible()
    page.get_by_label("Show").select_option("OT")
    page.wait_for_function("() => document.querySelector('#panel-forecast .chart').data[0].name === 'OT'")
    high = [row[-1] for row in expected["quantiles"]["0.975"]]
    assert traces(page)["OT, 95 %, high"]["y"] == pytest.approx(high, rel=TOLERANCE)


def test_names_are_shown_as_they_stand(visit: Visit) -> None:
    """None is read as markup, in the legend and beside the pointer, and large numbers keep to the policy."""
    page = opened(visit)
    name = "<b>x</b><sup>2</sup> &amp;"
    write(page, f"{name},y\n" + "".join(f"{1e20 * index},{index}\n" for index in range(1, 20)))
    chart = page.locator("#panel-forecast .chart")
    expect(chart.locator(".legendtext").filter(has_text=name)).to_be_visible()
    expect(chart.locator(".ytick").filter(has_text="e+21").first).to_be_visible()
    chart.hover()
    expect(chart.locator(".hoverlayer").filter(has_text=name)).to_be_visible()


def test_the_newest_series_wins(visit: Visit) -> None:
    """An answer that comes late is not drawn over what was asked for since."""
    page = opened(visit)
    let_go = visit.hold("/v1/forecast")
    page.get_by_label(TEXT).fill(WEEKLY)
    page.get_by_label(TEXT).fill("typed while it waits")
    page.get_by_label(TEXT).fill(WEEKLY.replace("sales", "newest"))
    let_go()
    page.wait_for_function("() => document.querySelector('#panel-forecast .chart').data[0]?.name === 'newest'")
    assert set(traces(page)) >= {"newest", "newest, mean"}
    assert not any(name.startswith("sales") for name in traces(page))


def test_the_chart_follows_the_theme_and_the_width(visit: Visit) -> None:
    page = opened(visit)
    paper = "document.querySelector('#panel-forecast .chart').layout.paper_bgcolor"
    assert page.evaluate(paper) == "#ffffff"
    for scheme, width in (("dark", 1280), ("light", 360)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two texts
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function(f"() => ({paper} === '#ffffff') === ({scheme!r} === 'light')")
        chart = page.locator("#panel-forecast .chart").element_handle()
        page.wait_for_function("chart => chart.layout.width === chart.clientWidth", arg=chart)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.violations() == []


def test_the_panel_has_no_severe_violation_where_it_shows_errors_and_values(visit: Visit) -> None:
    page = opened(visit)
    page.get_by_text("Values", exact=True).click()
    forecast_after(page, page.get_by_role("button", name="With gaps").click)
    assert visit.violations() == []
    page.get_by_label(TEXT).fill("no,number\n1,x")
    expect(page.get_by_role("alert")).to_be_visible()
    assert visit.violations() == []


def test_many_series_are_told_apart_and_none_is_wider_than_a_phone(visit: Visit) -> None:
    page = opened(visit)
    names = [
        f"{index} of a chain of shops with a name that is far longer than any telephone is wide" for index in range(8)
    ]
    write(page, csv_of(names, [[value + index for index in range(8)] for value in WEEKS]))
    looks = page.evaluate("""() => document.querySelector("#panel-forecast .chart").data
      .filter(({name}) => !name.endsWith(", mean")).map(({line}) => `${line.color} ${line.dash}`)""")
    assert len(set(looks)) == 8
    page.set_viewport_size({"width": 360, "height": 800})
    chart = page.locator("#panel-forecast .chart").element_handle()
    page.wait_for_function("chart => chart.layout.width === chart.clientWidth", arg=chart)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_small_numbers_are_told_shortly(visit: Visit) -> None:
    page = opened(visit)
    write(page, "\n".join(f"{value}e-9" for value in WEEKS))
    expect(page.locator("#panel-forecast figcaption")).to_have_text(
        re.compile(r"from \d\.\d{4}e-7 next to \d\.\d{4}e-7 ")
    )


def test_a_service_that_was_away_is_asked_again(visit: Visit) -> None:
    """The forecast before stays until then."""
    visit.expected.append("Failed to load resource")
    page = opened(visit)
    visit.context.route("**/v1/forecast", lambda route: route.abort())
    page.get_by_label(TEXT).fill(WEEKLY)
    expect(page.get_by_role("alert")).to_contain_text("code unreachable")
    assert {"visits", "visits, mean"} <= set(traces(page))
    visit.context.unroute("**/v1/forecast")
    forecast_after(page, page.get_by_role("button", name="Try again").click)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert {"sales", "sales, mean"} <= set(traces(page))
