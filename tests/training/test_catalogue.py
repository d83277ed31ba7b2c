"""Recipes from files: those of the project are sound, one's own works, and what is wrong is named by file and key."""

from __future__ import annotations

from pathlib import Path

import echo
import pytest

from training import catalogue
from training.catalogue import RecipeError, find_recipe, names, read_recipe


@pytest.mark.parametrize("name", names())
def test_the_project_s_recipes_are_sound(name: str) -> None:
    """Each has a run and the settings of its kind."""
    recipe = find_recipe(name)
    assert recipe.name == name
    assert isinstance(recipe.settings, recipe.kind.settings)


def test_the_first_models_have_recipes() -> None:
    assert {"sentiment", "sentiment-live", "forecast", "forecast-live"} <= {*names()}


def test_a_file_of_one_s_own_is_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is named as the file is."""
    assert find_recipe(echo.recipe_file(tmp_path, monkeypatch)) == echo.RECIPE


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("layers = 2", "layer = 2", r"echo\.toml: settings\.layers: is missing"),
        ("layers = 2", "layers = 2\nhidden = 3", r"settings\.hidden: is not known; known are layers, dropout"),
        ("layers = 2", 'layers = "two"', r"settings\.layers: Input should be a valid integer.*it is 'two'"),
        ("patience = 3", "patience = 0", r"run\.patience: Input should be greater than or equal to 1, but it is 0"),
        ("patience = 3", "patience = 3\nseed = 1", r"run\.seed: is not known; known are epochs, monitor"),
        ("32-true", "float8", r"run\.precision: Input should be '32-true' or 'bf16-mixed', but it is 'float8'"),
        ('kind = "echo"', 'kind = "parrot"', r"kind: 'parrot' is not known; known are sentiment"),
        ('kind = "echo"', 'type = "echo"', r"echo\.toml: kind: is missing"),
        ("val_loss", "val_los", r"run\.monitor: 'val_los' is no figure of this kind; it logs val_loss"),
        ("patience = 3", "patience = true", r"run\.patience: Input should be a valid integer, but it is True"),
        ("[run]", "[run", r"echo\.toml: file: is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, told: str
) -> None:
    """The error says the file, the key, and what would be right."""
    file = echo.recipe_file(tmp_path, monkeypatch, echo.FILE.replace(old, new))
    with pytest.raises(RecipeError, match=told):
        find_recipe(file)


def test_an_unknown_key_of_a_list_s_entry_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    """Tables within lists are described as others are."""
    file = tmp_path / "mine.toml"
    file.write_text((catalogue.FOLDER / "sentiment.toml").read_text() + "residual = true\n")
    with pytest.raises(
        RecipeError, match=r"settings\.readers\[\d\]\.residual: is not known; known are reads, cell, bidirectional"
    ):
        read_recipe(file)


def test_a_name_that_no_model_may_have_is_refused(tmp_path: Path) -> None:
    """The file's name becomes the model's."""
    with pytest.raises(RecipeError, match=r"'My Model' becomes the model's name"):
        read_recipe(tmp_path / "My Model.toml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine\.toml: file: cannot be read: No such file"):
        find_recipe(str(tmp_path / "mine.toml"))


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    """A misspelt name shows the known ones, and that a file may be given."""
    with pytest.raises(RecipeError, match=r"there are .*sentiment-live, spam, .*or give a \.toml file"):
        find_recipe("sentimnt")


def test_recipes_are_where_an_installed_package_has_them() -> None:
    """They lie beside the module, so a wheel that holds them finds them."""
    assert catalogue.FOLDER.parent == Path(catalogue.__file__).parent
