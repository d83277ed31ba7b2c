"""The measures of the forecasters: pinball loss, MASE, sMAPE, coverage, and the naive floors beside them.

It works on plain arrays in float64 and knows neither models nor files.

Invariant: every measure is an error in the units stated; smaller is better, coverage apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.series.quantiles import LEVELS

Values = npt.NDArray[np.float64]


def pinball(actual: Values, quantiles: Values) -> Values:
    """Average the pinball loss over `LEVELS`.

    Shapes: actual [...]; quantiles [..., 13]; returns [...].
    Units: those of the values.
    Source: Koenker and Bassett, Econometrica 46, 1978.
    """
    levels = np.asarray(LEVELS)
    error = actual[..., None] - quantiles
    return np.asarray(np.maximum(levels * error, (levels - 1) * error).mean(axis=-1))


def mase(history: Values, actual: Values, forecast: Values, season: int = 1) -> float:
    """Scale the mean absolute error by the in-sample error of the value `season` steps ago (1 for weekly series).

    Shapes: history [time]; actual and forecast [horizon].
    Raises: ValueError where the history repeats itself exactly, and the scale is zero.
    Source: Makridakis, Spiliotis and Assimakopoulos, The M4 competition, 2020, equation 2.
    """
    scale = float(np.abs(history[season:] - history[:-season]).mean())
    if scale == 0:
        raise ValueError("the history is constant from season to season; its scaled error is undefined")
    return float(np.abs(actual - forecast).mean()) / scale


def smape(actual: Values, forecast: Values) -> float:
    """Return the symmetric mean absolute percentage error.

    Shapes: actual and forecast [horizon].
    Units: per cent, 0 to 200.
    Source: Makridakis, Spiliotis and Assimakopoulos, The M4 competition, 2020, equation 1.
    """
    return float(200 * np.mean(np.abs(actual - forecast) / (np.abs(actual) + np.abs(forecast))))


def coverage(actual: Values, quantiles: Values, low: float, high: float) -> float:
    """Return the share of values between two levels' quantiles.

    Shapes: actual [...]; quantiles [..., 13].
    """
    inside = (actual >= quantiles[..., LEVELS.index(low)]) & (actual <= quantiles[..., LEVELS.index(high)])
    return float(inside.mean())


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
    return float(pinball(series[1:], series[:-1, None] + offsets).mean())
