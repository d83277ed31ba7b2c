"""A forecast as rows and as a sketch.

It knows results of /v1/forecast, not where series come from or where rows go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.cli.series import Series
from service.cli.sinks import draw_line, show_cell

SPARKS = 40  # values of history in a line of blocks
MEDIAN = 0.5


@dataclass(frozen=True)
class Forecast:
    """What is forecast of a series; `columns` name the channels where the model does not."""

    series: Series
    result: dict[str, Any]
    columns: Sequence[str]

    @property
    def channels(self) -> Sequence[str]:
        """The names of the channels; none where the series has one."""
        if not isinstance(self.result["mean"][0], list):
            return []
        width = len(self.result["mean"][0])
        named = self.result.get("channels") or self.columns
        return named if len(named) == width else [str(number) for number in range(width)]

    @property
    def bounds(self) -> dict[str, Any]:
        """The bounds of each interval by their names."""
        return {name: self.result["quantiles"][level] for name, level in name_bounds(self.result["quantiles"]).items()}

    def rows(self, members: Collection[str], *, few: bool) -> Iterator[dict[str, Any]]:
        """Yield a row for each value that is forecast, channel by channel.

        `members` are what `name_members` found. Of the intervals, `few` leaves the widest and that of 80 %.
        """
        bounds = self.bounds
        kept = [name for place, name in enumerate(bounds) if not few or place < 2 or name.endswith("_80")]
        parts = {"mean": self.result["mean"], **{name: bounds[name] for name in kept}}
        told = {"series": self.series.name, "line": self.series.line}
        head = {name: value for name, value in told.items() if name in members}
        times = self.result.get("timestamps")
        for place, channel in enumerate(self.channels or [None]):
            for step in range(len(self.result["mean"])):
                row = {**head, **({} if channel is None else {"channel": channel}), "step": step + 1}
                if "timestamp" in members:
                    row["timestamp"] = times and times[step]
                yield row | {
                    part: values[step] if channel is None else values[step][place] for part, values in parts.items()
                }

    def sketch(self) -> tuple[str, str, str, str]:
        """Return the series' name, history and forecast as a line of blocks, and the values where they meet.

        Of several channels it is the first.
        """
        values, mean = ([_first(value) for value in part] for part in (self.series.values, self.result["mean"]))
        values = values[-SPARKS:]
        line = draw_line([*values, *mean])
        last = next((value for value in reversed(values) if value is not None), None)
        return self.series.label, f"{line[: len(values)]}│{line[len(values) :]}", show_cell(last), show_cell(mean[0])


def name_bounds(quantiles: Collection[str]) -> dict[str, str]:
    """Return which of `quantiles` bound an interval, by names, `lower_80` and `upper_80`, the widest first."""
    found: dict[str, str] = {}
    for low in quantiles:
        high = next((name for name in quantiles if abs(float(name) + float(low) - 1) < 1e-9), None)
        if float(low) < MEDIAN and high is not None:
            level = f"{round(100 - 200 * float(low), 6):g}"
            found |= {f"lower_{level}": low, f"upper_{level}": high}
    return found


def name_members(series: Sequence[Series]) -> set[str]:
    """Return which of the members that a row may lack some of `series` have; all rows are to have them."""
    found = {
        "series": any(each.name is not None for each in series),
        "line": any(each.name is None and each.line is not None for each in series),
        "timestamp": any(each.start is not None for each in series),
    }
    return {name for name, there in found.items() if there}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value
