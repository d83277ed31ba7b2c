"""The report on gradients: the same seeds give the same numbers, and the page says what they say."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT

from training.gradients.page import NUMBERS, tables, with_tables, write_report
from training.gradients.study import Sizes, Study, measure

PAGE = ROOT / "docs" / "recurrent-networks.md"
FOLDER = PAGE.with_suffix("")
TINY = Sizes(seeds=(0,), distance=50, steps=4, updates=10, held_out=8)


def committed() -> Study:
    return Study.model_validate_json((FOLDER / NUMBERS).read_bytes())


def test_the_same_seeds_give_the_same_report(tmp_path: Path) -> None:
    """Numbers, pictures and tables, to the last byte."""
    page = tmp_path / "page.md"
    written = []
    for _ in range(2):
        page.write_text("".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n" for name in tables(committed())))
        write_report(measure(TINY), page)
        written.append({file.name: file.read_bytes() for file in [page, *sorted((tmp_path / "page").iterdir())]})
    assert written[0] == written[1]
    assert written[0].keys() - {"page.md"} == {file.name for file in FOLDER.iterdir()}
    assert b"old" not in written[0]["page.md"]


def test_the_committed_tables_are_those_of_the_committed_numbers() -> None:
    assert committed().sizes == Sizes()
    assert with_tables(PAGE.read_text(), committed()) == PAGE.read_text()


def test_the_bold_figures_of_the_page_stand_in_its_tables() -> None:
    section = PAGE.read_text().split("## Gradients through time")[1]
    quoted = set(re.findall(r"\*\*(\d[^*]*)\*\*", section))
    assert len(quoted) > 5
    measured = set(re.split(r"[|;(]", "".join(tables(committed()).values())))
    assert quoted <= {figure.strip() for figure in measured}


def test_the_page_shows_every_picture() -> None:
    shown = set(re.findall(rf"!\[[^\]]+\]\({FOLDER.name}/([^)]+)\)", PAGE.read_text()))
    assert shown | {NUMBERS} == {file.name for file in FOLDER.iterdir()}
