"""`python -m loadtests.forecast_loop URL SOURCE OUTPUT`: the forecasts of many series, one HTTP call for each.

It is what a user would write who has no `baton forecast`, and what that is measured against.
"""

from __future__ import annotations

import csv
import sys
from itertools import groupby
from pathlib import Path

import httpx

HORIZON, LEVEL = 12, 80
HEAD = ("series", "step", "mean", f"lower_{LEVEL}", f"upper_{LEVEL}")


def loop(url: str, source: Path, output: Path) -> None:
    """Forecast the series of `source`, told apart by their names, and write what `baton forecast` writes."""
    with (
        httpx.Client(base_url=url, timeout=60) as client,
        source.open(newline="") as read,
        output.open("w", newline="") as out,
    ):
        rows = csv.writer(out)
        rows.writerow(HEAD)
        lines = csv.reader(read)
        next(lines)
        for name, group in groupby(lines, key=lambda row: row[0]):
            values = [float(value) for _, value in group]
            body = {"horizon": HORIZON, "levels": [LEVEL], "series": [{"values": values}]}
            (result,) = client.post("/v1/forecast", json=body).raise_for_status().json()["results"]
            bounds = zip(result["mean"], *result["quantiles"].values(), strict=True)
            rows.writerows([name, step, *row] for step, row in enumerate(bounds, start=1))


if __name__ == "__main__":
    loop(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
