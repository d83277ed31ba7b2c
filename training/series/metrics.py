"""The measures of the forecasters: pinball loss, MASE, sMAPE, coverage, and the naive floors beside them.

utilsforecast computes them from frames with a row for each step of each series; here they take and give arrays. It
knows neither models nor files.

Invariant: every measure is an error in the units stated, over finite values alone; smaller is better, coverage apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
from utilsforecast import losses

from training.series.quantiles import LEVELS

Values = npt.NDArray[np.float64]


def pinball(actual: Values, quantiles: Values) -> Values:
    """Average the pinball loss over `LEVELS` and the steps of each series.

    Shapes: actual [series, steps]; quantiles [series, steps, 13]; returns [series].
    Units: those of the values.
    Source: Koenker and Bassett, Econometrica 46, 1978.
    """
    by_level = {f"{level:g}": quantiles[..., place] for place, level in enumerate(LEVELS)}
    return _of(losses.mqloss(_frame(actual, **by_level), {"forecast": list(by_level)}, np.array(LEVELS)))


def mase(histories: Sequence[Values], actual: Values, forecasts: Values, season: int = 1) -> Values:
    """Scale each mean absolute error by the in-sample error of the value `season` steps ago (1 for weekly series).

    Shapes: histories one [time] for each series; actual and forecasts [series, steps]; returns [series].
    Raises: ValueError where a history repeats itself exactly, and its scale is zero.
    Source: Makridakis, Spiliotis and Assimakopoulos, The M4 competition, 2020, equation 2.
    """
    if not all((history[season:] != history[:-season]).any() for history in histories):
        raise ValueError("a history is constant from season to season; its scaled error is undefined")
    series = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    known = pd.DataFrame({"unique_id": series, "y": np.concatenate(histories)})
    return _of(losses.mase(_frame(actual, forecast=forecasts), ["forecast"], season, known))


def smape(actual: Values, forecasts: Values) -> Values:
    """Return each symmetric mean absolute percentage error.

    Shapes: actual and forecasts [series, steps]; returns [series].
    Units: per cent, 0 to 200; of a step 0 where value and forecast are both 0.
    Source: Makridakis, Spiliotis and Assimakopoulos, The M4 competition, 2020, equation 1.
    """
    return 200 * _of(losses.smape(_frame(actual, forecast=forecasts), ["forecast"]))  # the library's are shares of 1


def coverage(actual: Values, quantiles: Values, low: float, high: float) -> float:
    """Return the share of values between two levels' quantiles.

    Shapes: actual [series, steps]; quantiles [series, steps, 13].
    """
    bounds = {f"forecast-{side}-0": quantiles[..., LEVELS.index(level)] for side, level in (("lo", low), ("hi", high))}
    return float(_of(losses.coverage(_frame(actual, **bounds), ["forecast"], 0)).mean())


def constant_spread(series: Values) -> Values:
    """Fit the offsets from the last value that minimise each level's pinball loss on `series`.

    The minimiser is the empirical quantile of the one-step differences.

    Shapes: series [time]; returns [13].
    """
    return np.asarray(np.quantile(np.diff(series), LEVELS))


def spread_loss(series: Values, offsets: Values) -> float:
    """Measure the last value with constant offsets, one step ahead, on `series`.

    Shapes: series [time]; offsets [13].
    Units: those of the values.
    """
    (loss,) = pinball(series[None, 1:], series[None, :-1, None] + offsets)
    return float(loss)


def _frame(actual: Values, **columns: Values) -> pd.DataFrame:
    """Write arrays as utilsforecast reads them. Shapes: all [series, steps].

    Raises: ValueError for what is not a number, which a mean over a frame would leave out.
    """
    told = {"y": actual, **columns}
    if wrong := [name for name, values in told.items() if not np.isfinite(values).all()]:
        raise ValueError(f"{', '.join(wrong)} must be finite: a measure of the rest would say nothing of the whole")
    series = np.repeat(np.arange(len(actual)), actual.shape[1])
    return pd.DataFrame({"unique_id": series} | {name: values.ravel() for name, values in told.items()})


def _of(measured: pd.DataFrame) -> Values:
    """Return the measure of each series, in their order."""
    return np.asarray(measured.sort_values("unique_id")["forecast"], dtype=np.float64)
