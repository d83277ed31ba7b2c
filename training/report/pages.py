"""Reports: pictures and comparisons of published models, for people, drawn from what the running service answers.

`report/` in a version's directory holds its pictures and `report.json`, which says what each one shows. The card gets
the pictures, and one page shows all models. It knows directories, manifests and Markdown; `training.reporters` tells
which pictures to draw. Graph and manifest of a version stay as published; its card gains the pictures.

Invariant: the page and the cards hold only what stands in manifests and `report.json`, so they can be written again
from the directories alone.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from service.contract.files import MANIFEST_FILE, read_manifest
from service.contract.manifest import Manifest
from training.evaluate import serving
from training.report.card import figures_table, networks_sentence
from training.report.plots import draw_learning_curves, save
from training.report.speed import rows_per_second

FOLDER, FACTS, CURVES = "report", "report.json", "training.csv"
SECTION = "\n## Pictures\n"


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file without suffix, and the sentence that says what to see in it."""

    name: str
    caption: str
    figure: Figure


class Table(BaseModel):
    """A comparison that was measured for the report."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Facts(BaseModel):
    """What `report.json` holds: captions by the pictures' file names, and tables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: dict[str, str] = Field(default_factory=dict)
    tables: tuple[Table, ...] = ()


# From the base URL of a service that serves the model, and its manifest.
Reporter = Callable[[str, Manifest], tuple[tuple[Picture, ...], tuple[Table, ...]]]


def write_reports(models_dir: Path, reporters: dict[str, Reporter], names: set[str]) -> list[Path]:
    """Draw the reports of the newest version of each model in `names`; return their directories.

    Raises: EvaluationError when the service does not answer.
    """
    newest = [directory for directory in versions(models_dir) if directory.parent.name in names]
    with serving(models_dir) as url:
        for directory in newest:
            manifest = read_manifest(directory)
            reporter = reporters.get(manifest.name)
            pictures, tables = reporter(url, manifest) if reporter else ((), ())
            _write(directory, (*_learning_curves(directory), *pictures), (*tables, _speed(directory)))
    return newest


def versions(models_dir: Path) -> list[Path]:
    """Return the newest version's directory of each model, by name."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in models_dir.glob(f"*/*/{MANIFEST_FILE}"):
        by_name[file.parents[1].name].append(file.parent)
    return [max(found, key=lambda directory: int(directory.name)) for _, found in sorted(by_name.items())]


def _speed(directory: Path) -> Table:
    length, by_batch = rows_per_second(directory)
    steps = "step" if length == 1 else "steps"
    caption = f"In process, in ONNX Runtime on {len(os.sched_getaffinity(0))} cores, rows of {length} {steps}."
    rows = tuple((str(batch), f"{rate:,.0f}") for batch, rate in by_batch.items())
    return Table(caption=caption, header=("rows a run", "rows a second"), rows=rows)


def _learning_curves(directory: Path) -> tuple[Picture, ...]:
    file = directory / CURVES
    if not file.is_file():
        return ()
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if name != "epoch" and value:
                    curves[name].append((float(row["epoch"]), float(value)))
    caption = "Training: each logged figure by epoch; the checkpoint with the best validation figure was published."
    return (Picture("learning-curves", caption, draw_learning_curves(curves)),)


def _write(directory: Path, pictures: tuple[Picture, ...], tables: tuple[Table, ...]) -> None:
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    captions = {save(picture.figure, folder, picture.name): picture.caption for picture in pictures}
    facts = Facts(pictures=captions, tables=tables)
    (folder / FACTS).write_text(facts.model_dump_json(indent=2) + "\n")
    card = directory / "card.md"
    card.write_text(card.read_text().split(SECTION)[0] + SECTION + "\n" + show_facts(facts, FOLDER))


def read_facts(directory: Path) -> Facts:
    """Return what the version's report shows; nothing where none was drawn."""
    file = directory / FOLDER / FACTS
    return Facts.model_validate_json(file.read_bytes()) if file.is_file() else Facts()


def show_facts(facts: Facts, folder: str) -> str:
    """Return tables and pictures as Markdown; `folder` is where the pictures are, as seen from the page."""
    parts = [f"{table.caption}\n\n{_markdown(table.header, table.rows)}" for table in facts.tables]
    parts += [f"![{Path(name).stem}]({folder}/{name})\n\n{text}" for name, text in facts.pictures.items()]
    return "\n\n".join(parts) + "\n"


def models_page(models_dir: Path, page_dir: Path) -> str:
    """Return the page of all models as Markdown, for a file in `page_dir`."""
    found = [(directory, read_manifest(directory)) for directory in versions(models_dir)]
    overview = [
        (
            f"[{m.name}](#{m.name})",
            m.task,
            networks_sentence(m.networks),
            f"{sum((directory / part.file).stat().st_size for part in (m, m.start) if part) / 1e6:.1f} MB",
            _headline(m),
        )
        for directory, m in found
    ]
    sections = [
        "# The models",
        "What `models/` holds, each measured through the service, on data held out from its training; `make report` "
        "draws this page, `make train-<name>` makes a model. The [cards](training.md) say what each one should not be "
        "trusted with.",
        _markdown(("model", "task", "network", "size", "first figure (floor)"), overview),
    ]
    for directory, manifest in found:
        place = Path(os.path.relpath(directory, page_dir)).as_posix()
        sections += [
            f"## {manifest.name}",
            f"{manifest.description} [Card]({place}/card.md).",
            figures_table(manifest),
            show_facts(read_facts(directory), f"{place}/{FOLDER}").rstrip(),
        ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _headline(manifest: Manifest) -> str:
    if manifest.provenance is None or not manifest.provenance.metrics:
        return ""
    metric = manifest.provenance.metrics[0]
    floor = "" if metric.floor is None else f" ({metric.floor:.4g})"
    return f"{metric.name} {metric.value:.4g}{floor}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
