"""What is worth a picture of a forecaster: forecasts against what came, coverage, error, other methods.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: the examples stand at fixed places of the test parts, never chosen by their outcome.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from statsforecast.models import AutoETS, AutoTheta, SeasonalNaive

from service.contract.manifest import Manifest
from training.datasets import find
from training.report.pages import Picture, Table
from training.report.plots import Fan, draw_coverage, draw_error, draw_fans
from training.series.data import ETT, ETT_TEST, WEEKLY_TEST, WEEKLY_TRAIN, read_ett, read_weekly
from training.series.metrics import coverage, mase, smape
from training.series.quantiles import LEVELS, MEDIAN
from training.tasks.forecast.evaluation import DAY, ask_forecast, coverages
from training.tasks.forecast.left_out import WALK_HISTORY, competition_sets, hourly_sets, walk_sets
from training.tasks.forecast.network import HORIZON, MAX_HISTORY

Values = npt.NDArray[np.float64]

BANDS = {80: (0.1, 0.9), 95: (0.025, 0.975)}  # central intervals in percent, and their levels
WEEKLY_EXAMPLES = (0, 90, 180, 270)
SHOWN_WEEKS, SHOWN_HOURS = 104, 168
YEAR_OF_WEEKS = 52
HELD = ("80 % holds", "95 % holds")
MOST_FITTED = 512  # values that the methods beside are fitted to; of more each takes seconds a series


def report_forecast(url: str, manifest: Manifest) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on `forecast`: weekly series, hours it never saw, signals of a known rule, and methods beside it."""
    histories, futures = read_weekly(find(WEEKLY_TRAIN).path), read_weekly(find(WEEKLY_TEST).path)
    ett = read_ett(find(ETT).path)
    quantiles = ask_forecast(url, manifest.name, histories, len(futures[0]))
    weekly = [
        _fan(f"M4 weekly, series {i + 1}", histories[i][-SHOWN_WEEKS:], futures[i], quantiles[i])
        for i in WEEKLY_EXAMPLES
    ]
    rules = {name: rule(np.arange(300.0)) for name, rule in RULES.items()}
    cut = 300 - HORIZON
    answers = ask_forecast(url, manifest.name, [values[:cut] for values in rules.values()], HORIZON)
    clean = [
        _fan(name, values[cut - SHOWN_WEEKS : cut], values[cut:], answer)
        for (name, values), answer in zip(rules.items(), answers, strict=True)
    ]
    hours = _hours(url, manifest.name, ett)
    pictures = (
        Picture(
            "weekly",
            "M4 weekly's test weeks, at every ninetieth series: median, 80 % and 95 % intervals.",
            draw_fans(weekly, "median"),
        ),
        Picture(
            "rules",
            "Signals that follow a rule without noise: what a first user tries. Training draws others of these kinds.",
            draw_fans(clean, "median"),
        ),
        *hours,
    )
    return pictures, (
        _weekly_table(histories, futures, quantiles[..., MEDIAN]),
        _left_out_table(url, manifest.name),
        _walk_table(url, manifest.name),
    )


RULES: dict[str, Callable[[Values], Values]] = {
    "a sine, period 17": lambda t: np.sin(2 * np.pi * t / 17),
    "a sawtooth, period 12, that grows": lambda t: (1 + t / 100) * (t % 12),
    "a working week with growth": lambda t: 100 + 0.2 * t + np.array([20, 22, 21, 23, 19, 2, 0])[t.astype(int) % 7],
    "a line": lambda t: 3 - 0.5 * t,
}


def _fan(title: str, history: Values, truth: Values, quantiles: Values) -> Fan:
    bands = {
        percent: (quantiles[:, LEVELS.index(low)], quantiles[:, LEVELS.index(high)])
        for percent, (low, high) in BANDS.items()
    }
    return Fan(title, history, truth, quantiles[:, MEDIAN], bands)


def _hours(url: str, model: str, ett: Values) -> tuple[Picture, ...]:
    starts = range(ETT_TEST.start, ETT_TEST.stop - HORIZON + 1, DAY)
    places = [(channel, start) for channel in range(ett.shape[1]) for start in starts]
    actual = np.stack([ett[start : start + HORIZON, channel] for channel, start in places])
    answers = ask_forecast(
        url, model, [ett[start - MAX_HISTORY : start, channel] for channel, start in places], HORIZON
    )
    yesterday = np.stack([ett[start - DAY + np.arange(HORIZON) % DAY, channel] for channel, start in places])
    last = np.stack([np.full(HORIZON, ett[start - 1, channel]) for channel, start in places])
    unit = ett[: ETT_TEST.start].std(axis=0)[[channel for channel, _ in places]][:, None]
    inside = {
        percent: np.mean(
            (actual >= answers[..., LEVELS.index(low)]) & (actual <= answers[..., LEVELS.index(high)]), axis=0
        )
        for percent, (low, high) in BANDS.items()
    }
    error = {
        name: np.mean(np.abs(actual - guess) / unit, axis=0)
        for name, guess in (("forecast", answers[..., MEDIAN]), ("24 hours before", yesterday), ("last value", last))
    }
    examples = [(ett.shape[1] - 1, 20), (ett.shape[1] - 1, 60), (0, 40), (2, 80)]
    fans = []
    for channel, day in examples:
        row = channel * len(starts) + day
        history = ett[starts[day] - SHOWN_HOURS : starts[day], channel]
        fans.append(_fan(f"ETTh1, channel {channel + 1}, test day {day}", history, actual[row], answers[row]))
    where = "ETTh1's test part, which is no data of its training: seven channels, a start a day"
    return (
        Picture("hours", "ETTh1's test hours, at fixed days.", draw_fans(fans, "median")),
        Picture(
            "error-by-step",
            f"Mean absolute error by step ahead, {where}.",
            draw_error(error, "ETTh1", "standard deviations"),
        ),
        Picture("coverage", f"How many values fall into the intervals, {where}.", draw_coverage(inside, "ETTh1")),
    )


def _weekly_table(histories: list[Values], futures: list[Values], medians: Values) -> Table:
    actual = np.stack(futures)
    horizon = actual.shape[1]
    methods: dict[str, list[Values]] = {
        "forecast": list(medians),
        "last value": [np.full(horizon, history[-1]) for history in histories],
        "seasonal naive, 52 weeks": [_classic(SeasonalNaive(YEAR_OF_WEEKS), history, horizon) for history in histories],
        "AutoETS, statsforecast": [_classic(AutoETS(season_length=1), history, horizon) for history in histories],
    }
    rows = tuple(
        (
            name,
            f"{mase(histories, actual, np.stack(guesses)).mean():.3f}",
            f"{smape(actual, np.stack(guesses)).mean():.2f}",
        )
        for name, guesses in methods.items()
    )
    caption = "M4 weekly, all 359 series, the competition's 13 test weeks and its scaling (season 1), in one run."
    return Table(caption=caption, header=("method", "MASE", "sMAPE, %"), rows=rows)


def _left_out_table(url: str, name: str) -> Table:
    """Compare on sets that were left out, each by its competition's measure, or by MASE."""
    rows = []
    for part in (*competition_sets(), *hourly_sets()):
        horizon, season = part.futures.shape[1], part.season
        latest = [history[-MOST_FITTED:] for history in part.histories]
        quantiles = ask_forecast(url, name, part.histories, horizon)
        held = [f"{metric.value:.3f}" for metric in coverages(part.name, part.futures, quantiles)]
        guesses = {
            "forecast": quantiles[..., MEDIAN],
            "AutoETS": np.stack([_classic(AutoETS(season), history, horizon) for history in latest]),
            "AutoTheta": np.stack([_classic(AutoTheta(season), history, horizon) for history in latest]),
            "seasonal naive": part.seasonal_naive(),
        }
        for steps in (DAY, horizon) if season == DAY else (horizon,):
            actual, cut = part.futures[:, :steps], {method: guess[:, :steps] for method, guess in guesses.items()}
            if part.name.startswith("m3"):
                measure, figures = "sMAPE, %", [f"{smape(actual, guess).mean():.2f}" for guess in cut.values()]
            else:
                errors = [mase(part.histories, actual, guess, season).mean() for guess in cut.values()]
                measure, figures = "MASE", [f"{error:.3f}" for error in errors]
            rows.append((f"{part.name}, {steps} steps, {len(actual)} series", measure, *figures, *held))
    caption = (
        "Series that training left out, in one run, and what the forecast's intervals hold over the whole horizon. "
        "Errors are those of the median; the methods beside it are statsforecast's, fitted to the last "
        f"{MOST_FITTED} values."
    )
    return Table(caption=caption, header=("set", "measure", *guesses, *HELD), rows=tuple(rows))


def _walk_table(url: str, name: str) -> Table:
    rows = []
    for walks in walk_sets():
        quantiles = ask_forecast(url, name, walks.histories, HORIZON)
        guesses = quantiles[..., MEDIAN], walks.seasonal_naive()
        error, floor = (np.abs(walks.futures - guess).mean() for guess in guesses)
        held = []
        for low, high in BANDS.values():
            steps = range(HORIZON)
            shares = [coverage(walks.futures[:, s, None], quantiles[:, s, None], low, high) for s in steps]
            held.append(f"{min(shares):.3f} to {max(shares):.3f}")
        rows.append((walks.name, f"{error / floor:.3f}", *held))
    caption = (
        f"Random walks of {WALK_HISTORY} values: the error of the median over that of the last value, and what "
        f"intervals hold at the steps that they hold least and most, of {HORIZON}."
    )
    return Table(caption=caption, header=("walk", "error over the last value's", *HELD), rows=tuple(rows))


def _classic(model: AutoETS | AutoTheta | SeasonalNaive, history: Values, horizon: int) -> Values:
    guess: Values = model.forecast(y=history, h=horizon)["mean"]
    return guess
