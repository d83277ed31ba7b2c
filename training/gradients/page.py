"""The report on gradients as files: raw numbers, plots and drawings in a folder beside the page, tables in the page.

It knows the page's marks, not its prose. Invariant: the tables hold only what stands in the raw numbers, so they can be
written again from these alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from training.gradients.pictures import NAMES, draw_pictures
from training.gradients.study import CELLS, RADII, Network, Study, Training
from training.gradients.unrolled import draw_configurations
from training.report.plots import save

NUMBERS = "gradients.json"
BACK = 50  # steps, in the table


def write_report(study: Study, page: Path) -> None:
    """Write the raw numbers and every picture in place of those before, and the page's tables."""
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    (folder / NUMBERS).write_text(study.model_dump_json() + "\n")
    for name, figure in {**draw_configurations(), **draw_pictures(study)}.items():
        save(figure, folder, name)
    page.write_text(with_tables(page.read_text(), study))


def with_tables(page: str, study: Study) -> str:
    """Return the page with each table between its marks, `<!-- name:begin -->` and `<!-- name:end -->`."""
    for name, table in tables(study).items():
        begin = f"<!-- {name}:begin -->\n"
        start, end = page.index(begin) + len(begin), page.index(f"<!-- {name}:end -->")
        page = page[:start] + table + page[end:]
    return page


def tables(study: Study) -> dict[str, str]:
    """Return the tables by their marks' names: a row for each network, a column for each spectral radius."""
    return {
        "shares": _table((start.network, "", _number(start.shares[BACK])) for start in study.starts),
        "clipping": _table(
            (training.network, ", clipped" if training.clipped else "", f"{_right(training)}; {_largest(training)}")
            for training in study.trainings
            if training.method == "descent"
        ),
        "memory": _table(
            (training.network, "", _right(training)) for training in study.trainings if training.method == "adam"
        ),
    }


def _table(entries: Iterable[tuple[Network, str, str]]) -> str:
    by_row: dict[str, dict[float, str]] = defaultdict(dict)
    for network, suffix, text in sorted(entries, key=lambda entry: CELLS.index(entry[0].cell)):
        remedy = ", skip" if network.skip else f", bias {network.keep:.0f}" if network.keep else ""
        by_row[NAMES[network.cell] + remedy + suffix][network.radius] = text
    header = ["network", *(f"radius {radius}" for radius in RADII)]
    rows = ([name, *(cells.get(radius, "") for radius in RADII)] for name, cells in by_row.items())
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)) + "\n"


def _right(training: Training) -> str:
    """Return the mean accuracy and, where seeds differ, its span."""
    lowest, highest = min(training.accuracies), max(training.accuracies)
    span = "" if round(100 * lowest) == round(100 * highest) else f" ({100 * lowest:.0f} to {100 * highest:.0f})"
    return f"{100 * fmean(training.accuracies):.0f} %{span}"


def _largest(training: Training) -> str:
    return _number(max(training.largest_norms))


def _number(value: float) -> str:
    return f"{value:.2g}"
