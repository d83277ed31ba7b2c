"""Pictures of forecasts; the only module of the service that imports matplotlib, which the extra `plot` brings.

It knows forecasts and axes, not where the numbers come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from service.cli.forecasts import Forecast
from service.endpoints.forecast.timestamps import list_times
from service.errors import CommandError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 12  # series in a picture
HISTORIES = 4  # history that is drawn, in horizons
LEAST = 48  # values of it
WIDTH_IN, HEIGHT_IN = 9.0, 3.0
LIGHTEST, DARKEST = 0.15, 0.6  # shades of intervals


def draw(file: Path, forecasts: Sequence[Forecast]) -> None:
    """Write `file`: for each series its last values, the mean and the intervals of what comes next.

    Raises: CommandError where matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise CommandError("--plot needs the extra plot: pip install 'baton-serving[plot]'") from missing
    panels = [(each, place, name) for each in forecasts for place, name in enumerate(each.channels or [""])]
    if len(panels) > MOST:
        typer.echo(f"{file}: the first {MOST} of {len(panels)} are drawn", err=True)
        del panels[MOST:]
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN * len(panels)), layout="constrained")
    for axes, (each, place, name) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        _draw_panel(axes, each, place)
        axes.set_title(
            " ".join(filter(None, (each.series.label, name))), loc="left", fontsize="medium", parse_math=False
        )
    try:
        with rc_context({"svg.fonttype": "none"}):  # so that what an SVG says can be searched and read aloud
            figure.savefig(file)
    except OSError as failure:
        raise CommandError(f"{file} cannot be written: {failure.strerror}") from failure


def _draw_panel(axes: Axes, forecast: Forecast, channel: int) -> None:
    from matplotlib.colors import to_rgb

    history, mean = forecast.series.values, forecast.result["mean"]
    shown = min(len(history), max(LEAST, HISTORIES * len(mean)))
    past, future = _places(forecast, shown)
    known = [_channel(value, channel) for value in history[-shown:]]
    observed = [math.nan if value is None else value for value in known]
    axes.plot(past, observed, color="0.2", label="history")
    joined = [past[-1], *future]  # all that is forecast begins at the last observation

    def follow(part: Sequence[Any]) -> list[float]:
        return [observed[-1], *(_channel(value, channel) for value in part)]

    bounds = list(forecast.bounds.items())
    shades = np.linspace(LIGHTEST, DARKEST, len(bounds) // 2)  # the widest is the lightest, and lies below the others
    for (low, lower), (_, upper), shade in zip(bounds[::2], bounds[1::2], shades, strict=True):
        colour = 1 - shade * (1 - np.array(to_rgb("C0")))
        axes.fill_between(
            joined, follow(lower), follow(upper), color=colour, linewidth=0, label=f"{low.split('_')[1]} %"
        )
    dot = "." if len(mean) == 1 else None
    axes.plot(joined, follow(mean), color="C0", marker=dot, label="mean")
    axes.legend(loc="upper left", fontsize="small")
    axes.margins(x=0.01)


def _places(forecast: Forecast, shown: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return where on the axis the last `shown` values and the forecast are: at their times, or counted."""
    series, horizon = forecast.series, len(forecast.result["mean"])
    end = len(series.values)
    if series.start is None or series.freq is None:
        return range(end - shown, end), range(end, end + horizon)
    times, _ = list_times(series.start, series.freq, range(end - shown, end + horizon))
    read = [datetime.fromisoformat(time) for time in times]
    return read[:shown], read[shown:]


def _channel(value: Any, channel: int) -> Any:
    return value[channel] if isinstance(value, list) else value
