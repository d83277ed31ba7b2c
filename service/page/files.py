"""Which files make the pages, and how they are answered.

It knows files and paths, not what is in them. Invariants: nothing but the files named here is answered, however a path
is written; each goes out with what keeps other pages away from it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request, Response

from service.errors import NotFound
from service.web.context import caller_of
from service.web.files import answer_file

HERE = Path(__file__).parent
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def playground_files() -> dict[str, Path]:
    """Return the files of the page `/` by their paths."""
    own = _below(HERE / "playground", "/page")
    return {
        "/": HERE / "playground" / "index.html",
        **own,
        "/page/plotly.js": _of("plotly", "package_data/plotly.min.js"),
    }


def documents_files() -> dict[str, Path]:
    """Return the files of the page `/docs` by their paths."""
    swagger = {
        f"/docs/{name}": _of("fastapi_offline", f"static/{name}") for name in ("swagger-ui-bundle.js", "swagger-ui.css")
    }
    return {"/docs": HERE / "documents" / "index.html", **_below(HERE / "documents", "/docs"), **swagger}


def pages(files: dict[str, Path]) -> APIRouter:
    """Return a router that answers each of `files` at its path."""
    router = APIRouter(include_in_schema=False)

    async def answer(request: Request) -> Response:
        file = files.get(request.url.path)
        if file is None:
            raise NotFound(f"there is nothing at {caller_of(request.scope).printable_path}; see /docs")
        return answer_file(file, request.scope, HEADERS)

    folders = {path.rpartition("/")[0] for path in files if path.count("/") > 1}
    for path in sorted({path for path in files if path.count("/") == 1} | {f"{folder}/{{file}}" for folder in folders}):
        router.add_api_route(path, answer, methods=["GET", "HEAD"])
    return router


def _below(folder: Path, path: str) -> dict[str, Path]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "index.html")
    return {f"{path}/{file.relative_to(folder).as_posix()}": file for file in sorted(files)}


def _of(package: str, file: str) -> Path:
    """Return a file that a package ships, which is not imported for that."""
    spec = find_spec(package)
    assert spec is not None, f"{package} is a dependency"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / file
