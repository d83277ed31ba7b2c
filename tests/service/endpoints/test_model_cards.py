"""The card and the pictures of a model, over HTTP: what its directory has for people, and nothing else of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server

CARD = "# stepper 1\n\nWhat it does: schön.\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'


@pytest.fixture(scope="module")
def documented_models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a card and pictures, beside which lies what is neither, and one without."""
    models = tmp_path_factory.mktemp("documented")
    for name in ("stepper", "numbers"):
        shutil.copytree(tiny_models / name, models / name)
    version = models / "stepper" / "1"
    report = version / "report"
    report.mkdir()
    (version / "card.md").write_text(CARD)
    (report / "curves.svg").write_text(SVG)
    (report / "dots.png").write_bytes(b"\x89PNG")
    (report / "report.json").write_text("{}")
    (report / "folder.svg").mkdir()
    (report / "own.svg").symlink_to(report / "curves.svg")
    outside = models / "outside.svg"
    outside.write_text(SVG)
    (report / "outside.svg").symlink_to(outside)
    (report / "gone.svg").symlink_to(report / "nothing.svg")
    return models


@pytest.fixture(scope="module")
def documented(documented_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over them."""
    running = Server(documented_models, tmp_path_factory.mktemp("documented-state"))
    yield running
    running.stop()


def test_the_card_is_answered_as_it_stands(documented: Server) -> None:
    answer = documented.client.get("/v1/models/stepper/card")
    assert (answer.status_code, answer.text) == (200, CARD)
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    again = documented.client.get("/v1/models/stepper/card", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_card_is_bounded(documented: Server, documented_models: Path) -> None:
    card = documented_models / "stepper" / "1" / "card.md"
    try:
        for size, status in ((256 * 1024, 200), (256 * 1024 + 1, 404)):
            card.write_bytes(b"x" * size)
            answer = documented.client.get("/v1/models/stepper/card")
            assert answer.status_code == status
        message = answer.json()["error"]["message"]
        assert message == "the card.md of stepper 1 has 262145 bytes; one of at most 262144 is given out"
    finally:
        card.write_text(CARD)


def test_the_facts_say_what_there_is(documented: Server) -> None:
    facts = {name: documented.client.get(f"/v1/models/{name}").json() for name in ("stepper", "numbers")}
    assert (facts["stepper"]["card"], facts["stepper"]["pictures"]) == (True, ["curves.svg", "dots.png", "own.svg"])
    assert (facts["numbers"]["card"], facts["numbers"]["pictures"]) == (False, [])


@pytest.mark.parametrize(
    ("file", "kind"), [("curves.svg", "image/svg+xml"), ("dots.png", "image/png"), ("own.svg", "image/svg+xml")]
)
def test_a_picture_goes_out_where_no_script_of_it_can_run(documented: Server, file: str, kind: str) -> None:
    answer = documented.client.get(f"/v1/models/stepper/pictures/{file}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "sandbox"} < {*policy}
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "file",
    [
        *("report.json", "nothing.svg", "folder.svg", "outside.svg", "gone.svg", "curves.SVG", ".", "..", "%2e%2e"),
        *("..%2f..%2foutside.svg", "..%2fmodel.onnx", "../card.md", "../../manifest.json", "%00", "/etc/passwd"),
    ],
)
def test_nothing_else_of_the_directory_is_answered(documented: Server, file: str) -> None:
    path = f"/v1/models/stepper/pictures/{file}"
    answer = documented.client.get("/", extensions={"target": path.encode()})  # as it stands, which httpx would resolve
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_what_is_not_there_is_refused_with_what_is(documented: Server) -> None:
    def error(path: str) -> dict[str, str]:
        answer = documented.client.get(f"/v1/models/{path}")
        assert answer.status_code == 404
        told: dict[str, str] = answer.json()["error"]
        return told

    assert error("numbers/card")["message"] == "numbers 1 has no card.md in its directory"
    message = "stepper 1 has no picture 'new.svg'; there are curves.svg, dots.png, own.svg"
    assert error("stepper/pictures/new.svg")["message"] == message
    assert error("numbers/pictures/new.svg")["message"].endswith("there are none in the folder report of its directory")
    assert error("nobody/card")["code"] == error("nobody/pictures/new.svg")["code"] == "unknown_model"
