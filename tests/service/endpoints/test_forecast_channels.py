"""POST /v1/forecast for models of several channels, through a real server: `values` are rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tiny
import tiny_kinds
from conftest import Server

from baton_client import Client

CLOSE = 1e-5
RNG = np.random.default_rng(4)
ROWS = RNG.normal(size=(16, 3)).round(3).tolist()
WINDOW = {"min_history": 8, "max_history": 8, "horizon": 4, "quantiles": [0.1, 0.9]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    tiny.forecast(models)
    tiny_kinds.weather(models)
    tiny_kinds.weather(models, name="window", lengths=None, forecast=WINDOW, inputs=[nameless()])
    tiny_kinds.weather(models, name="calibrated", constants={"offsets": [-0.5, 2]})
    server = Server(models, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


def nameless() -> dict:
    return tiny.tensor("values", "float32", "batch", "time", 3)


def ask(server: Server, *values: object, model: str = "weather", horizon: int = 4, **options: object) -> list[dict]:
    body = {"model": model, "series": [{"values": v} for v in values], "horizon": horizon, **options}
    return server.post("/v1/forecast", body).json()["results"]


def with_gaps(*places: tuple[int, int]) -> list[list[float | None]]:
    rows: list[list[float | None]] = [list(row) for row in ROWS]
    for step, channel in places:
        rows[step][channel] = None
    return rows


def assert_same(ours: dict, theirs: dict) -> None:
    np.testing.assert_allclose(ours["mean"], theirs["mean"], atol=CLOSE)
    for level, rows in theirs["quantiles"].items():
        np.testing.assert_allclose(ours["quantiles"][level], rows, atol=CLOSE)


def test_an_answer_has_rows_of_the_channels_and_names_them_once(served: Server) -> None:
    (result,) = ask(served, ROWS, horizon=2)
    assert result["channels"] == list(tiny_kinds.CHANNELS)
    assert np.shape(result["mean"]) == (2, 3)
    assert {level: np.shape(rows) for level, rows in result["quantiles"].items()} == {"0.1": (2, 3), "0.9": (2, 3)}
    facts = served.client.get("/v1/models/weather").json()
    assert facts["inputs"][0]["labels"] == list(tiny_kinds.CHANNELS)


def test_channels_without_names_and_series_of_numbers_have_no_channels_to_tell(served: Server) -> None:
    assert "channels" not in ask(served, ROWS, model="window")[0]
    assert "channels" not in ask(served, [1, 2, 3], model="forecast")[0]


def test_ragged_histories_answer_together_as_alone(served: Server) -> None:
    histories = [ROWS[:3], ROWS, ROWS[4:11], [[0.1, -2, 30]] * 16]
    for history, result in zip(histories, ask(served, *histories), strict=True):
        assert_same(result, ask(served, history)[0])


def test_a_channel_stands_in_its_own_place(served: Server) -> None:
    """The rows are fed in the order in which they came: swapped channels are another series."""
    (straight,), (swapped,) = (ask(served, rows) for rows in (ROWS, [row[::-1] for row in ROWS]))
    assert not np.allclose(straight["mean"], swapped["mean"], atol=100 * CLOSE)


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one(served: Server) -> None:
    (short,), (long,) = (ask(served, ROWS, horizon=n) for n in (1, 4))
    assert short["mean"] == long["mean"][:1]
    assert short["quantiles"]["0.9"] == long["quantiles"]["0.9"][:1]


def test_quantiles_and_levels_choose_what_is_shown(served: Server) -> None:
    (both,), (one,), (by_level,) = (
        ask(served, ROWS, **options) for options in ({}, {"quantiles": [0.9]}, {"levels": [80]})
    )
    assert one["quantiles"] == {"0.9": both["quantiles"]["0.9"]}
    assert by_level["quantiles"] == both["quantiles"]
    refused = served.post(
        "/v1/forecast", {"model": "weather", "series": [{"values": ROWS}], "horizon": 1, "levels": [50]}
    )
    assert refused.json()["error"]["code"] == "quantile_unavailable"


def test_offsets_in_the_manifest_move_each_quantile_of_every_channel(served: Server) -> None:
    (plain,), (moved,) = (ask(served, ROWS, model=name) for name in ("weather", "calibrated"))
    assert moved["mean"] == plain["mean"]
    for level, offset in (("0.1", -0.5), ("0.9", 2)):
        np.testing.assert_allclose(moved["quantiles"][level], np.add(plain["quantiles"][level], offset), atol=CLOSE)


def test_timestamps_go_on_from_the_rows(served: Server) -> None:
    series = {"values": ROWS[:3], "start": "2024-01-01T22:00", "freq": "h"}
    body = {"model": "weather", "series": [series], "horizon": 2}
    (result,) = served.post("/v1/forecast", body).json()["results"]
    assert result["timestamps"] == ["2024-01-02T01:00:00", "2024-01-02T02:00:00"]


def test_missing_values_are_filled_in_their_own_channel(served: Server) -> None:
    gappy = with_gaps((3, 0), (4, 0), (4, 2))
    forward, line = with_gaps(), with_gaps()
    forward[3][0] = forward[4][0] = ROWS[2][0]
    forward[4][2] = ROWS[3][2]
    line[3][0], line[4][0] = np.interp([3, 4], [2, 5], [ROWS[2][0], ROWS[5][0]]).tolist()
    line[4][2] = (ROWS[3][2] + ROWS[5][2]) / 2
    for how, filled in (("ffill", forward), ("linear", line)):
        (ours,) = ask(served, gappy, missing=how)
        assert ours["warnings"] == [f"3 missing values filled ({how})"]
        assert_same(ours, ask(served, filled)[0])


@pytest.mark.parametrize(
    ("values", "missing", "code", "field", "says"),
    [
        (with_gaps((5, 2), (7, 0)), "error", "missing_values", "values[5][2]", "null, the first in row 5, rain"),
        (with_gaps((0, 1)), "ffill", "missing_values", "values[0][1]", "none before it"),
        (with_gaps((15, 2)), "linear", "missing_values", "values[15][2]", '"missing": "ffill"'),
        (with_gaps(*((n, 1) for n in range(2, 16))), "ffill", "history_too_short", "values", "2 values given for wind"),
        (ROWS[:2], "error", "history_too_short", "values", "2 rows given, 3 needed"),
        ([], "error", "history_too_short", "values", "0 rows given, 3 needed"),
        ([1, 2, 3], "error", "invalid_request", "values", "takes rows of 3 numbers (temperature, wind, rain)"),
        ([*ROWS[:5], [1, 2]], "error", "ragged_inputs", "values[5]", "2 values, 3 needed in every row (temperature,"),
        ([[], [], []], "error", "ragged_inputs", "values[0]", "0 values, 3 needed"),
        ([*ROWS[:5], 7], "error", "invalid_request", "values[5]", "all are numbers, or all are rows"),
        ([*ROWS[:5], None], "error", "invalid_request", "values[5]", "all are numbers, or all are rows"),
        ([1, 2, ROWS[0]], "error", "invalid_request", "values[2]", "all are numbers, or all are rows"),
        ([*ROWS[:5], [1, "2", 3]], "error", "invalid_request", "values[5][1]", "valid number"),
        ([[1, "2", 3], *ROWS[:5]], "error", "invalid_request", "values[0][1]", "valid number"),
        ([*ROWS[:5], [1, True, 3]], "error", "invalid_request", "values[5][1]", "valid number"),
        ([*ROWS[:5], [1, [2], 3]], "error", "invalid_request", "values[5][1]", "valid number"),
        ([*ROWS[:5], [1, 1e300, 3]], "error", "not_finite", "values", "float32"),
        ("rows", "error", "invalid_request", "values", "valid array"),
    ],
)  # fmt: skip
def test_a_bad_series_fails_alone_and_says_where(
    served: Server, values: object, missing: str, code: str, field: str, says: str
) -> None:
    good, bad = ask(served, ROWS, values, missing=missing)
    assert (bad["error"]["code"], bad["error"]["field"]) == (code, f"series[1].{field}")
    assert says in bad["error"]["message"]
    assert "mean" in good


def test_a_number_that_is_not_finite_is_found_in_its_row(served: Server) -> None:
    text = '{"model": "weather", "horizon": 1, "series": [{"values": [[1, 2, 3], [4, NaN, 6], [7, 8, 9]]}]}'
    answer = served.client.post("/v1/forecast", content=text, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("not_finite", "series[0].values[1][1]")


def test_of_many_wrong_cells_the_first_is_told(served: Server) -> None:
    """Reading ends there: listing a million mistakes would hold up everybody else."""
    answer = served.post("/v1/forecast", {"series": [{"values": [[1, 2, 3], *[["", "", ""]] * 200_000]}], "horizon": 1})
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_request", "series[0].values[1][0]")


def test_rows_are_refused_by_a_model_of_one_series(served: Server) -> None:
    """They are not forecast channel by channel in silence: that would be another model than the client asked for."""
    good, bad = ask(served, [1, 2, 3], ROWS, model="forecast")
    assert (bad["error"]["code"], bad["error"]["field"]) == ("ragged_inputs", "series[1].values[0]")
    assert "3 values, 1 needed in every row; model 'forecast' takes one series" in bad["error"]["message"]
    assert "mean" in good


def test_a_history_over_the_model_s_is_cut_and_says_so(served: Server) -> None:
    rows = [*ROWS[::-1], *ROWS]
    (whole,), (tail,) = (ask(served, values) for values in (rows, ROWS))
    assert_same(whole, tail)
    assert whole["warnings"] == ["32 rows given; the last 16 are used"]


def test_a_model_of_a_fixed_window_takes_that_many_rows_filled_or_not(served: Server) -> None:
    (short,), (due,), (long,) = (ask(served, rows, model="window") for rows in (ROWS[:7], ROWS[:8], ROWS[4:12]))
    assert short["error"]["message"] == "7 rows given, 8 needed"
    assert (due["warnings"], np.shape(due["mean"])) == ([], (4, 3))
    assert_same(long, ask(served, ROWS[:12], model="window")[0])
    gappy = with_gaps((3, 1))[:8]
    (filled,) = ask(served, gappy, model="window", missing="linear")
    assert filled["warnings"] == ["1 missing values filled (linear)"]
    (refused,) = ask(served, gappy, model="window")
    assert refused["error"]["message"].startswith("1 values are null, the first in row 3, channel 1;")


def test_the_client_takes_and_gives_rows_as_arrays(served: Server) -> None:
    rows = np.array(with_gaps((3, 1)), float)
    with Client(str(served.url)) as client:
        (forecast,) = client.forecast([rows], 4, model="weather", missing="linear")
        (numbers,) = client.forecast([[1, 2, 3]], 2)
        with pytest.raises(ValueError, match="give numbers, or rows of channels"):
            client.forecast([[[ROWS]]], 4, model="weather")
    (due,) = ask(served, with_gaps((3, 1)), missing="linear")
    np.testing.assert_allclose(forecast.mean, due["mean"], atol=CLOSE)
    assert forecast.quantiles[0.9].shape == (4, 3)
    assert forecast.channels == list(tiny_kinds.CHANNELS)
    assert (numbers.mean.shape, numbers.channels) == ((2,), None)
