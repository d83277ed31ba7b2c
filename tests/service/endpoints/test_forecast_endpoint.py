"""POST /v1/forecast through a real server."""

from __future__ import annotations

import pytest
from conftest import Server

CLOSE = 1e-5


def ask(server: Server, *series: object, **options: object) -> list[dict]:
    return server.post("/v1/forecast", {"series": list(series), "horizon": 4, **options}).json()["results"]


def test_an_answer_has_the_documented_members(server: Server) -> None:
    (result,) = ask(server, {"id": "s", "values": [1, 2, 3]}, horizon=2)
    assert (result["index"], result["id"], result["warnings"]) == (0, "s", [])
    assert len(result["mean"]) == 2
    assert list(result["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert all(len(values) == 2 for values in result["quantiles"].values())
    assert "timestamps" not in result


def test_ragged_series_answer_together_as_alone(server: Server) -> None:
    histories = [[1, 2, 3], [5.5, -3, 2, 8, 1, 0, 4], [0.1] * 16]
    together = ask(server, *({"values": values} for values in histories))
    for values, result in zip(histories, together, strict=True):
        (alone,) = ask(server, {"values": values})
        assert alone["mean"] == pytest.approx(result["mean"], abs=CLOSE)
        for level, quantile in alone["quantiles"].items():
            assert quantile == pytest.approx(result["quantiles"][level], abs=CLOSE)


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one(server: Server) -> None:
    (short,), (long,) = (ask(server, {"values": [3, 1, 2]}, horizon=n) for n in (1, 4))
    assert short["mean"] == long["mean"][:1]


def test_quantiles_and_levels_choose_what_is_shown(server: Server) -> None:
    series = {"values": [1, 2, 3]}
    assert list(ask(server, series, quantiles=[0.9, 0.5])[0]["quantiles"]) == ["0.5", "0.9"]
    assert list(ask(server, series, levels=[80])[0]["quantiles"]) == ["0.1", "0.9"]
    assert list(ask(server, series, levels=[80], quantiles=[0.5])[0]["quantiles"]) == ["0.1", "0.5", "0.9"]
    for member, given in (("quantiles", [0.33]), ("levels", [50])):
        answer = server.post("/v1/forecast", {"series": [series], "horizon": 1, member: given})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["field"]) == (422, "quantile_unavailable", member)
        assert "0.1, 0.5, 0.9" in error["message"]


def test_missing_values_are_refused_or_filled_as_asked(server: Server) -> None:
    (refused,) = ask(server, {"values": [1, 2, None, 4, None]})
    assert refused["error"]["code"] == "missing_values"
    assert refused["error"]["field"] == "series[0].values[2]"
    gappy, forward, line = [1, None, 3, None, 4], [1, 1, 3, 3, 4], [1, 2, 3, 3.5, 4]
    for how, filled in (("ffill", forward), ("linear", line)):
        (ours,) = ask(server, {"values": gappy}, missing=how)
        (theirs,) = ask(server, {"values": filled})
        assert ours["mean"] == theirs["mean"]
        assert ours["warnings"] == [f"2 missing values filled ({how})"]
    assert ask(server, {"values": [None, 1, 2, 3]}, missing="ffill")[0]["error"]["field"] == "series[0].values[0]"
    assert ask(server, {"values": [1, 2, 3, None]}, missing="linear")[0]["error"]["field"] == "series[0].values[3]"
    too_few = ask(server, {"values": [1, None, None, None, 2]}, missing="linear")[0]["error"]
    assert too_few["message"] == "2 values given that are not null, 3 needed"


def test_a_history_over_the_model_s_is_cut_and_says_so(server: Server) -> None:
    values = [float(n % 5) for n in range(40)]
    (whole,), (tail,) = (ask(server, {"values": v}) for v in (values, values[-16:]))
    assert whole["mean"] == tail["mean"]
    assert whole["warnings"] == ["40 values given; the last 16 are used"]


# What pandas 3.1.1's date_range(start, freq=freq, periods=5) ends with.
AS_PANDAS = [
    ("2026-02-28", "ME", ["2026-05-31T00:00:00", "2026-06-30T00:00:00"]),
    ("2024-01-31T18:30", "ME", ["2024-04-30T18:30:00", "2024-05-31T18:30:00"]),
    ("2026-01-01", "MS", ["2026-04-01T00:00:00", "2026-05-01T00:00:00"]),
    ("2026-03-31", "QE", ["2026-12-31T00:00:00", "2027-03-31T00:00:00"]),
    ("2026-01-31", "QE-JAN", ["2026-10-31T00:00:00", "2027-01-31T00:00:00"]),
    ("2026-04-01", "QS", ["2027-01-01T00:00:00", "2027-04-01T00:00:00"]),
    ("2026-02-01", "QS-FEB", ["2026-11-01T00:00:00", "2027-02-01T00:00:00"]),
    ("2023-12-31", "YE", ["2026-12-31T00:00:00", "2027-12-31T00:00:00"]),
    ("2024-02-29", "YE-FEB", ["2027-02-28T00:00:00", "2028-02-29T00:00:00"]),
    ("2024-01-01", "YS", ["2027-01-01T00:00:00", "2028-01-01T00:00:00"]),
    ("2024-04-01", "YS-APR", ["2027-04-01T00:00:00", "2028-04-01T00:00:00"]),
    ("2026-01-02", "B", ["2026-01-07T00:00:00", "2026-01-08T00:00:00"]),
    ("2026-01-02", "2B", ["2026-01-12T00:00:00", "2026-01-14T00:00:00"]),
    ("2026-01-05", "W-MON", ["2026-01-26T00:00:00", "2026-02-02T00:00:00"]),
    ("2026-01-04", "2W-SUN", ["2026-02-15T00:00:00", "2026-03-01T00:00:00"]),
    ("2026-01-31", "2ME", ["2026-07-31T00:00:00", "2026-09-30T00:00:00"]),
    ("2026-01-30", "BME", ["2026-04-30T00:00:00", "2026-05-29T00:00:00"]),
    ("2026-02-02", "BMS", ["2026-05-01T00:00:00", "2026-06-01T00:00:00"]),
    ("2026-03-31", "BQE", ["2026-12-31T00:00:00", "2027-03-31T00:00:00"]),
    ("2023-12-29", "BYE", ["2026-12-31T00:00:00", "2027-12-31T00:00:00"]),
    ("2026-01-01T22:00", "15min", ["2026-01-01T22:45:00", "2026-01-01T23:00:00"]),
    ("2026-01-01", "90s", ["2026-01-01T00:04:30", "2026-01-01T00:06:00"]),
    ("2026-01-01", "100ms", ["2026-01-01T00:00:00.300000", "2026-01-01T00:00:00.400000"]),
    ("2024-02-28", "D", ["2024-03-02T00:00:00", "2024-03-03T00:00:00"]),
    ("2026-01-01T22:00+02:00", "h", ["2026-01-02T01:00:00+02:00", "2026-01-02T02:00:00+02:00"]),
]


def test_timestamps_go_on_from_the_history_as_in_pandas(server: Server) -> None:
    asked = [{"values": [1, 2, 3], "start": start, "freq": freq} for start, freq, _ in AS_PANDAS]
    for (start, freq, expected), result in zip(AS_PANDAS, ask(server, *asked, horizon=2), strict=True):
        assert (result.get("timestamps"), result.get("warnings")) == (expected, []), (start, freq, result)


@pytest.mark.parametrize(
    ("start", "freq", "expected", "read_as"),
    [
        ("2023-11-29", "M", ["2024-02-29", "2024-03-29"], None),
        ("2023-11-30", "M", ["2024-02-29", "2024-03-31"], "ME"),
        ("2026-02-28", "M", ["2026-05-31", "2026-06-30"], "ME"),
        ("2026-01-31", "M", ["2026-04-30", "2026-05-31"], None),
        ("2026-04-30", "Q", ["2027-01-31", "2027-04-30"], "QE-APR"),
        ("2020-02-29", "Y", ["2023-02-28", "2024-02-29"], "YE-FEB"),
        ("2024-01-03", "W", ["2024-01-24", "2024-01-31"], None),
    ],
)
def test_a_frequency_that_leaves_the_day_open_goes_by_the_start_and_says_so_in_doubt(
    server: Server, start: str, freq: str, expected: list[str], read_as: str | None
) -> None:
    (result,) = ask(server, {"values": [1, 2, 3], "start": start, "freq": freq}, horizon=2)
    assert [time.removesuffix("T00:00:00") for time in result["timestamps"]] == expected
    assert [f"; {read_as} says so" in warning for warning in result["warnings"]] == ([True] if read_as else [])
    if read_as is not None:
        (same,) = ask(server, {"values": [1, 2, 3], "start": start, "freq": read_as}, horizon=2)
        assert (same["timestamps"], same["warnings"]) == (result["timestamps"], [])


@pytest.mark.parametrize(
    ("start", "freq", "following"),
    [
        ("2026-02-27", "ME", "2026-02-28T00:00:00"),
        ("2026-02-28", "MS", "2026-03-01T00:00:00"),
        ("2026-01-31", "QE", "2026-03-31T00:00:00"),
        ("2026-01-31", "BME", "2026-02-27T00:00:00"),
        ("2026-01-03T09:00", "B", "2026-01-05T09:00:00"),
        ("2026-01-06", "2W-MON", "2026-01-12T00:00:00"),
    ],
)
def test_a_start_beside_its_frequency_is_refused_with_the_next_that_is_on_it(
    server: Server, start: str, freq: str, following: str
) -> None:
    (result,) = ask(server, {"values": [1, 2, 3], "start": start, "freq": freq})
    assert (result["error"]["code"], result["error"]["field"]) == ("invalid_request", "series[0].start")
    assert result["error"]["message"].endswith(f"the next time that does is {following}")


@pytest.mark.parametrize(
    ("series", "code", "field", "says"),
    [
        ({"values": [1, 2]}, "history_too_short", "values", "2 values given, 3 needed"),
        ({"values": []}, "history_too_short", "values", "0 values given, 3 needed"),
        ({"values": [1, "2", 3]}, "invalid_request", "values[1]", "valid number"),
        ({"values": [1, True, 3]}, "invalid_request", "values[1]", "valid number"),
        ({"values": [1, [2], 3]}, "invalid_request", "values[1]", "valid number"),
        ({"values": [1, 1e300, 3]}, "not_finite", "values", "float32"),
        ({"value": [1, 2, 3]}, "invalid_request", "values", "missing"),
        ({"values": [1, 2, 3], "start": "2024-01-01"}, "invalid_request", "freq", "start is given and freq is not"),
        ({"values": [1, 2, 3], "freq": "D"}, "invalid_request", "start", "freq is given and start is not"),
        ({"values": [1, 2, 3], "start": "2024-13-01", "freq": "D"}, "invalid_request", "start", "ISO 8601"),
        ({"values": [1, 2, 3], "start": "2024-01-01", "freq": "fortnight"}, "invalid_request", "freq", "15min"),
        ({"values": [1, 2, 3], "start": "2024-01-31", "freq": "ME-JAN"}, "invalid_request", "freq", "ME, MS"),
        ({"values": [1, 2, 3], "start": "9999-12-31", "freq": "Y"}, "invalid_request", "start", "9999"),
        ({"values": [1, 2, 3], "start": "9999-12-30", "freq": "B"}, "invalid_request", "start", "9999"),
        ({"values": [1, 2, 3], "start": "2024-01-01", "freq": "999999999B"}, "invalid_request", "start", "9999"),
        ({"values": [1, 2, 3], "start": "2024-01-01", "freq": "999999999MS"}, "invalid_request", "start", "9999"),
        ({"values": [1, 2, 3], "start": "2024-01-01", "freq": "999999999W"}, "invalid_request", "start", "9999"),
    ],
)
def test_a_bad_series_fails_alone(server: Server, series: dict, code: str, field: str, says: str) -> None:
    good, bad = ask(server, {"values": [1, 2, 3]}, series)
    assert (bad["error"]["code"], bad["error"]["field"]) == (code, f"series[1].{field}")
    assert says in bad["error"]["message"]
    assert "mean" in good


@pytest.mark.parametrize(
    ("values", "span", "apart"),
    [
        ([1e8, 1e8 + 10, 1e8 - 10], "20 at a level of 1e+08", "8 apart"),
        ([-5000, -5000.5, -5001], "1 at a level of 5e+03", "0.000488 apart"),
        ([3e9, 3e9, 3e9], "0 at a level of 3e+09", "256 apart"),
    ],
)
def test_a_history_that_its_level_hides_is_answered_with_a_warning(
    server: Server, values: list[float], span: str, apart: str
) -> None:
    """This model takes float32."""
    (result,) = ask(server, {"values": values})
    (warning,) = result["warnings"]
    assert warning.startswith(f"the values span {span}, where float32 has numbers {apart}")


def test_a_history_that_moves_enough_or_not_at_all_has_no_warning(server: Server) -> None:
    histories = [[0.1] * 4, [5000.0] * 4, [0.0, 0, 0], [100, 101, 99], [1e8, 2e8, 5e7], [1e-9, 2e-9, 0]]
    assert [result["warnings"] for result in ask(server, *({"values": values} for values in histories))] == [[]] * 6


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_json_or_floats_cannot_hold_fail_their_item_alone(server: Server, number: str) -> None:
    text = f'{{"horizon": 1, "series": [{{"values": [1, 2, {number}]}}, {{"values": [1, 2, 3]}}]}}'
    answer = server.client.post("/v1/forecast", content=text, headers={"content-type": "application/json"})
    bad, good = answer.json()["results"]
    assert (bad["error"]["code"], bad["error"]["field"]) == ("not_finite", "series[0].values[2]")
    assert "mean" in good


@pytest.mark.parametrize(
    ("horizon", "code"),
    [(5, "horizon_too_long"), (0, "invalid_request"), (-1, "invalid_request"), (1.5, "invalid_request")],
)
def test_an_impossible_horizon_is_refused(server: Server, horizon: float, code: str) -> None:
    answer = server.post("/v1/forecast", {"series": [{"values": [1, 2, 3]}], "horizon": horizon})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, code, "horizon")
    if code == "horizon_too_long":
        assert error["limit"] == 4
