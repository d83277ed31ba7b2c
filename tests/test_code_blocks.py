"""Each code block of the pages runs and prints what the page shows, or its reader takes it, or a comment says why not.

A page's blocks are followed from top to bottom against a service over the committed models: its shell lines in one
folder, its Python in one namespace. A block of JSON or text after them is what they print. The comment before a block
that is not run, `<!-- not run: why -->`, is not seen on the page; shell lines under it must still be shell. The
transcript of a stream is replayed with a small model, whose weights are random but the same each time.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_bring_your_own as walk
import tiny
import tiny_kinds
import yaml
from conftest import ADMIN, ROOT, Server, free_port
from pages import PAGES, Block, blocks, name_of
from programs import find_program
from shell import assert_alike, assert_prints, assert_same, shell
from transcripts import is_transcript, replay

from service.contract.files import CHOICE_FILE, read_choice

pytestmark = pytest.mark.old_cpu

HERE = "localhost:8000"
IN_LOCATION = "    # in location /:\n"
# What the tests of docs/bring-your-own.md follow, with folders and servers of their own.
WALKED = {*(text for _, text in walk.BLOCKS), *walk.MADE_BLOCKS, *walk.SNIPPETS}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        ROOT / "models", tmp_path_factory.mktemp("state"), BATON_API_KEYS=ADMIN.setting, BATON_LOG_FORMAT="json"
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over the models of which the pages show transcripts."""
    models = tmp_path_factory.mktemp("models")
    tiny.stepper(models)
    tiny_kinds.weather(models, channels=2)
    server = Server(models, tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


class Reader:
    """Someone who follows a page in `folder`, beside the services `committed` and `example`."""

    def __init__(self, committed: Server, example: Server, folder: Path) -> None:
        self._committed, self._example, self._folder = committed, example, folder
        self._address = committed.url.removeprefix("http://")
        own = {
            "MODELS_DIR": ROOT / "models",
            "STATE_DIR": folder / "state",
        }
        self._environment = {f"BATON_{name}": str(value) for name, value in own.items()}
        self._environment["ADMIN_KEY"] = ADMIN.admin
        self._namespace: dict[str, object] = {}
        self._printed: str | None = None
        self._nginx = ""

    def follow(self, block: Block) -> None:
        """Run a block, or compare it with what the one before it printed."""
        printed, self._printed = self._printed, None
        match block.language:
            case "bash":
                text = block.text.replace(HERE, self._address)
                self._printed = shell(text, self._folder, **self._environment).stdout
            case "python":
                self._printed = self._python(block)
            case "text" if is_transcript(block.text):
                replay(block.text, self._example)
            case "json" if printed:
                assert_same(json.loads(printed), json.loads(block.text))
            case "text" if printed:
                assert_prints(printed, block.text)
            case "json":
                self._take_json(block)
            case "yaml":
                yaml.safe_load(block.text)
            case "toml":
                tomllib.loads(block.text)
            case "nginx":
                self._take_configuration(block.text)
            case _:
                pytest.fail(f"{block.where} is neither run nor read, and no comment before it says why")

    def _python(self, block: Block) -> str:
        code = compile(block.text.replace(HERE, self._address), block.where, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, self._namespace)
        return out.getvalue()

    def _take_json(self, block: Block) -> None:
        """Have a block read by what reads it, or compare it with what the service writes."""
        match block.where.partition(":")[0]:
            case "docs/deployment.md":
                (self._folder / CHOICE_FILE).write_text(block.text)
                assert read_choice(self._folder, ["1", "2"]) == "1"
            case "docs/logs-and-traces.md":
                shown, start = json.loads(block.text), self._committed.mark()
                body = {"inputs": ["Fine.", "a" * 100_001]}
                self._committed.post("/v1/sentiment", body, headers={"x-request-id": shown["id"]})
                assert_same(json.loads(self._committed.lines_since(start, shown["id"])[-1]), shown)
            case "docs/manifest.md":
                assert block.text in walk.OF_MANIFESTS  # which a test of the walk validates
            case _:
                pytest.fail(f"nothing reads {block.where}")

    def _take_configuration(self, text: str) -> None:
        """Have nginx read a configuration, or what the page adds to the one before it."""
        maps, more, lines = text.partition(IN_LOCATION)
        self._nginx = maps + self._nginx.replace("    location / {\n", f"    location / {{\n{lines}") if more else text
        served = self._nginx.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
        file = self._folder / "nginx.conf"
        file.write_text(f"pid {self._folder}/nginx.pid;\nevents {{}}\nhttp {{\n{served}\n}}\n")
        command = [find_program("nginx"), "-t", "-c", file, "-e", self._folder / "error.log"]
        read = subprocess.run(command, capture_output=True, text=True, check=False)
        assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run_and_print_what_it_shows(
    page: Path, committed: Server, example: Server, tmp_path: Path
) -> None:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    reader = Reader(committed, example, tmp_path)
    for block in blocks(page):
        walked = page.name == "bring-your-own.md" and block.text in WALKED
        if not walked and block.not_run is None:
            reader.follow(block)


def test_a_forecast_of_channels_has_the_form_that_the_page_shows(example: Server) -> None:
    (block,) = [block for block in blocks(ROOT / "docs" / "api.md") if block.text.startswith('--> {"model": "weather"')]
    asked, shown = block.text.removeprefix("--> ").split("<-- ")
    answer = example.post("/v1/forecast", json.loads(asked)).json()
    shown = shown.replace("{..., ", "{").replace("}], ...}", "}]}")
    assert_alike({"results": answer["results"]}, json.loads(shown), block.where)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_not_run_is_still_in_its_language(page: Path) -> None:
    for block in blocks(page):
        if block.not_run and block.language == "bash":
            read = subprocess.run(["bash", "-nc", block.text], capture_output=True, text=True, check=False)
            assert read.returncode == 0, f"{block.where}: {read.stderr}"
        elif block.not_run and block.language == "python":
            ast.parse(block.text, block.where)


def test_a_reason_names_files_and_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    reasons = [block.not_run for page in PAGES for block in blocks(page) if block.not_run]
    assert len(reasons) > 20
    for reason in reasons:
        assert all((ROOT / path).exists() for path in re.findall(r"tests/[\w/.]+\w", reason)), reason
        assert set(re.findall(r"make ([a-z-]+)", reason)) <= targets, reason


def test_no_fence_is_left_open_or_indented() -> None:
    """So no block escapes the reader of blocks."""
    for page in PAGES:
        fences = re.findall(r"^\s*(?:```|~~~)", page.read_text(), flags=re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page
