"""Recipes as files: `training/recipes/<name>.toml`, or a file of the user's, read and checked against its kind.

It knows the kinds of task by name, and TOML; not what a kind's settings mean. Invariant: a recipe that `read_recipe`
returned has every key that its kind asks for, and no other.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import Field, ValidationError

from service.contract.files import field_path
from service.contract.members import MODEL_NAME
from service.errors import StartupError
from training.recipe import Kind, Recipe, Run, Section
from training.tasks.caption.recipe import KIND as CAPTION
from training.tasks.charlm.recipe import KIND as CHARLM
from training.tasks.classifier.sentiment import KIND as SENTIMENT
from training.tasks.classifier.spam import KIND as SPAM
from training.tasks.denoise.recipe import KIND as DENOISE
from training.tasks.digits.recipe import KIND as DIGITS
from training.tasks.forecast.recipe import KIND as FORECAST
from training.tasks.forecast_live.recipe import KIND as FORECAST_LIVE
from training.tasks.handwriting.recipe import KIND as HANDWRITING
from training.tasks.segrnn.recipe import KIND as SEGRNN
from training.tasks.tagger.recipe import KIND as TAGGER
from training.tasks.translate.recipe import KIND as TRANSLATE

FOLDER = Path(__file__).parent / "recipes"
SUFFIX = ".toml"
KINDS: Mapping[str, Kind[Any]] = {
    "sentiment": SENTIMENT,
    "spam": SPAM,
    "charlm": CHARLM,
    "forecast": FORECAST,
    "forecast-live": FORECAST_LIVE,
    "segrnn": SEGRNN,
    "denoise": DENOISE,
    "digits": DIGITS,
    "tagger": TAGGER,
    "handwriting": HANDWRITING,
    "translate": TRANSLATE,
    "caption": CAPTION,
}
T = TypeVar("T", bound=Section)


class RecipeError(StartupError):
    """A recipe that does not exist, or whose file breaks a rule: names the file, the key and what would be right."""

    def __init__(self, file: Path | str, key: str, message: str) -> None:
        super().__init__(f"{file}: {key}: {message}")


class _File(Section):
    kind: str
    summary: str = Field(min_length=1)
    run: Run
    settings: dict[str, Any]


def names() -> list[str]:
    """Return the names of the recipes that come with the project."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}"))


def find_recipe(name_or_file: str) -> Recipe:
    """Return the project's recipe of that name, or the one in the file at that path (it ends in .toml).

    Raises: RecipeError, for an unknown name with those that exist.
    """
    if name_or_file.endswith(SUFFIX):
        return read_recipe(Path(name_or_file))
    if name_or_file not in names():
        message = f"there is no such recipe; there are {', '.join(names())}, or give a {SUFFIX} file of your own"
        raise RecipeError(name_or_file, "name", message)
    return read_recipe(FOLDER / f"{name_or_file}{SUFFIX}")


def read_recipe(file: Path) -> Recipe:
    """Read one recipe; the file's name without its ending is the model's.

    Raises: RecipeError.
    """
    if not MODEL_NAME.fullmatch(file.stem):
        rule = f"becomes the model's name, so it must match {MODEL_NAME.pattern}"
        raise RecipeError(file, "name", f"{file.stem!r} {rule}")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as failure:
        raise RecipeError(file, "file", f"cannot be read: {failure.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as failure:
        raise RecipeError(file, "file", f"is not TOML: {failure}") from None
    told = _check(_File, content, file)
    if told.kind not in KINDS:
        raise RecipeError(file, "kind", f"{told.kind!r} is not known; known are {', '.join(KINDS)}")
    kind = KINDS[told.kind]
    if told.run.monitor not in kind.figures:
        known = ", ".join(kind.figures)
        raise RecipeError(file, "run.monitor", f"{told.run.monitor!r} is no figure of this kind; it logs {known}")
    return Recipe(file.stem, told.summary, kind, told.run, _check(kind.settings, told.settings, file, "settings"))


def _check(table: type[T], content: dict[str, Any], file: Path, *above: str) -> T:
    try:
        return table.model_validate_json(json.dumps(content, default=str), strict=True)  # arrays for tuples, no more
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        key = field_path((*above, *error["loc"]))
        if error["type"] == "extra_forbidden":
            *parents, _ = error["loc"]
            raise RecipeError(file, key, f"is not known; known are {_known(table, parents)}") from None
        if error["type"] == "missing":
            raise RecipeError(file, key, "is missing") from None
        found = "" if isinstance(error["input"], dict) else f", but it is {error['input']!r}"
        raise RecipeError(file, key, f"{error['msg']}{found}") from None


def _known(table: Any, parents: list[int | str]) -> str:
    for parent in parents:
        table = table.model_fields[parent].annotation if isinstance(parent, str) else get_args(table)[0]
    return ", ".join(table.model_fields)
