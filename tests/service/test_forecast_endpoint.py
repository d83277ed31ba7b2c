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


@pytest.mark.parametrize(
    ("start", "freq", "expected"),
    [
        ("2024-01-01T22:00", "h", ["2024-01-02T01:00:00", "2024-01-02T02:00:00"]),
        ("2024-01-01", "15min", ["2024-01-01T00:45:00", "2024-01-01T01:00:00"]),
        ("2023-11-30", "M", ["2024-02-29T00:00:00", "2024-03-30T00:00:00"]),
        ("2024-01-01T00:00:00+02:00", "W", ["2024-01-22T00:00:00+02:00", "2024-01-29T00:00:00+02:00"]),
        ("2020-02-29", "Y", ["2023-02-28T00:00:00", "2024-02-29T00:00:00"]),
    ],
)
def test_timestamps_go_on_from_the_history(server: Server, start: str, freq: str, expected: list[str]) -> None:
    (result,) = ask(server, {"values": [1, 2, 3], "start": start, "freq": freq}, horizon=2)
    assert result["timestamps"] == expected


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
        ({"values": [1, 2, 3], "start": "2024-01-01"}, "invalid_request", "freq", "go together"),
        ({"values": [1, 2, 3], "start": "2024-13-01", "freq": "D"}, "invalid_request", "start", "ISO 8601"),
        ({"values": [1, 2, 3], "start": "2024-01-01", "freq": "fortnight"}, "invalid_request", "freq", "15min"),
        ({"values": [1, 2, 3], "start": "9999-12-31", "freq": "Y"}, "invalid_request", "start", "9999"),
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
