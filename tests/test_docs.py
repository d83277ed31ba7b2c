"""The documents say what the code does: their tables are compared with it row by row."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT
from here import vouched
from pages import CARDS, PAGES, anchors, links, name_of

from service import errors
from service.app import create_app
from service.engine.orders import Orders
from service.errors import leaves
from service.metrics import Metrics
from service.settings import PREFIX, READ_ELSEWHERE, Settings

# Read by the tests and training, by Compose, and set by Kubernetes for a Service.
OF_OTHERS = {"BATON_DATA_DIR", "BATON_IMAGE", "BATON_SERVICE_HOST"}
HOST = re.compile(r"https?://[a-z0-9-]+(\.[a-z0-9-]+)+(/\S*)?")


def error_rows() -> list[str]:
    return [f"| [`{leaf.code}`](errors.md#{leaf.code}) | {leaf.status} |" for leaf in by_status()]


def by_status() -> list[type[errors.RequestError]]:
    return sorted(leaves(), key=lambda leaf: (leaf.status, leaf.code))


def settings_rows() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        default = str(field.default).replace(str(Path.home()), "~")
        if isinstance(field.default, tuple | dict | None):
            default = json.dumps(field.default) if field.default else "none"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return rows


def metric_rows() -> list[str]:
    rows = []
    for collector in vars(Metrics()).values():
        if hasattr(collector, "_documentation"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in collector._labelnames)
            rows.append(f"| `{name}` | {labels} | {collector._documentation} |")
    return rows


def table(document: str, header: str) -> list[str]:
    lines = (ROOT / "docs" / document).read_text().splitlines()
    start = lines.index(header) + 2
    return [line for line in lines[start : start + 100] if line.startswith(("| `", "| [`"))]


@pytest.mark.parametrize(
    ("document", "header", "rows"),
    [
        ("api.md", "| code | status |", error_rows()),
        ("settings.md", "| variable | default | what |", settings_rows()),
        ("metrics.md", "| name | labels | what |", metric_rows()),
    ],
)
def test_a_table_is_in_step_with_the_code(document: str, header: str, rows: list[str]) -> None:
    assert table(document, header) == rows


def test_every_error_has_its_section() -> None:
    """Its name is the code, so that whoever has the code has the place; its first words are the status."""
    page = (ROOT / "docs" / "errors.md").read_text()
    sections = re.findall(r"^## (\w+)\n\nStatus (\d+)[,.] ((?:.+\n)+)\n((?:[-| ].+\n)+)", page, flags=re.MULTILINE)
    assert [(code, int(status)) for code, status, *_ in sections] == [(leaf.code, leaf.status) for leaf in by_status()]
    assert all("*Caller*: " in advice or "*Operator*: " in advice for *_, advice in sections)


def test_what_the_page_of_errors_names_is_there() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    metrics = {row.split("`")[1] for row in metric_rows()} | {"baton_inference_seconds_count"}
    assert set(re.findall(r"`(baton_\w+)", page)) <= metrics


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_calls_a_setting_is_one(page: Path) -> None:
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"BATON_[A-Z_]+", page.read_text())) <= settings | READ_ELSEWHERE | OF_OTHERS


def test_the_protocol_s_page_lists_its_calls(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    with Orders.shared(1) as orders:
        app = create_app(settings, tried=vouched(settings.models_dir), orders=orders)
    calls = {path for path in app.openapi()["paths"] if path.startswith("/v2")}
    page = (ROOT / "docs" / "open-inference.md").read_text().split("## Tensors")[0]
    assert set(re.findall(r"(?<=[` ])/v2[^` ,]*|(?<=GET )/v2[^` ]*", page)) == calls


def test_the_error_tree_s_drawing_names_every_leaf() -> None:
    assert errors.__doc__ is not None
    assert all(leaf.__name__ in errors.__doc__ for leaf in leaves())


def test_every_make_target_that_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {word for file in documents for word in re.findall(r"`make ([a-z-]+)`", file.read_text())}
    assert {re.sub(r"^train-.*", "train-%", word) for word in named} <= targets


def test_the_index_of_the_documents_names_each() -> None:
    linked = re.findall(r"^\| \[([a-z-]+\.md)\]", (ROOT / "docs" / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(linked) == sorted(file.name for file in (ROOT / "docs").glob("*.md") if file.name != "README.md")


def test_what_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", text))
    assert len(named) > 40
    assert not [path for path in named if not any((root / path).exists() for root in (ROOT, ROOT / "service"))]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", *CARDS], ids=name_of)
def test_no_link_is_dead(page: Path) -> None:
    """Files and headings are there; of other hosts, which no test may ask, the address is whole."""
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in link:
            assert HOST.fullmatch(link), link
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_every_fault_is_shown_by_tests_that_are_there() -> None:
    rows = re.findall(r"^\| (?!fault |---)(.+) \|$", (ROOT / "docs" / "faults.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        shown = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", row.split(" | ")[-1])
        assert shown, row
        for name, file in shown:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), flags=re.MULTILINE), name


def test_the_readme_s_costs_are_those_of_the_benchmark() -> None:
    section = (ROOT / "README.md").read_text().split("## What it costs")[1].split("\n## ")[0]
    measured = (ROOT / "docs" / "benchmarks.md").read_text().split("<!-- bench:begin -->")[1].split("<!-- bench:end")[0]
    quoted = re.findall(r"([\d,.]+) ?(?:texts|series|steps)?/s|([\d.]+) s, ([\d]+) MB", section)
    numbers = [number for match in quoted for number in match if number]
    assert len(numbers) == 14
    assert not [number for number in numbers if f" {number} " not in measured]
