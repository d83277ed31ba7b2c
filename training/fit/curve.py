"""Learning curves: a run's CSV logs, with a row a step, become one table with a row an epoch.

It knows Lightning's CSV logs, not what the figures mean. Invariant: each epoch stands once, as it was last trained.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from statistics import fmean

LOGGED = "metrics.csv"


def learning_curve(logs: Path) -> str:
    """Return, as CSV, the mean of each figure that was logged in each epoch; `logs` holds `version_<n>/metrics.csv`.

    Of an epoch that was interrupted and trained again the last log counts.
    """
    epochs: dict[int, dict[str, list[float]]] = {}
    for log in sorted(logs.glob(f"version_*/{LOGGED}"), key=_number):
        epochs |= _read(log)
    figures = list(dict.fromkeys(name for logged in epochs.values() for name in logged))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["epoch", *figures])
    for epoch, logged in sorted(epochs.items()):
        table.writerow([epoch, *(f"{fmean(logged[name]):.6g}" if name in logged else "" for name in figures)])
    return text.getvalue()


def _number(log: Path) -> int:
    return int(log.parent.name.removeprefix("version_"))


def _read(log: Path) -> dict[int, dict[str, list[float]]]:
    epochs: dict[int, dict[str, list[float]]] = {}
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            logged = epochs.setdefault(int(row.pop("epoch")), {})
            for name, value in row.items():
                if value and name != "step":
                    logged.setdefault(name, []).append(float(value))
    return epochs
