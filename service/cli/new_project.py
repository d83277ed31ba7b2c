"""`baton new`: a project of one's own, from data to a model that is served.

It knows the files that a project begins with, not what they hold. Invariant: nothing that is there already is touched.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from service.errors import CommandError

SUFFIX = ".template"


def new(
    name: Annotated[str, typer.Argument(help="The model's name, and that of the folder that is made for it.")],
) -> None:
    """Start a project of your own: data, a recipe, a PyTorch module that trains, and a README with the four commands.

    It works as it is made, on data that was made up; put yours in its place. Training needs the extra `train`.

    \b
      baton new weather
      baton new turbine-live && cat turbine-live/README.md
    """
    from service.contract.members import MODEL_NAME

    if not MODEL_NAME.fullmatch(name):
        raise CommandError(f"the name {name!r} must match {MODEL_NAME.pattern}, as in weather-live")
    folder = Path(name)
    if folder.exists():
        raise CommandError(f"{folder} is there already; give another name, or remove it")
    (folder / "models").mkdir(parents=True)
    for template in (resources.files("service.cli") / "project").iterdir():
        text = Template(template.read_text()).substitute(name=name)
        (folder / template.name.removesuffix(SUFFIX)).write_text(text)
    typer.echo(f"made {folder}/; what to do there stands in {folder}/README.md")
