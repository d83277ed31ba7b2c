"""`baton generate`: what a model writes after a prompt, from a state on, from a condition, or from nothing.

It knows where a prompt and a state come from and how a text, or points of a pen, are shown, not how they are drawn.
Invariant: the state and the picture that are kept are those of what was shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.api import Refusal, open_api
from service.cli.options import ApiKey, AsJson, Output, Url, complete_models
from service.cli.sinks import Row, Write, check_target, open_rows, wants_table
from service.cli.sources import check_text, read_text
from service.cli.state_file import read_state, write_state
from service.errors import CommandError

SHOWN = ("choice", "text", "ids", "score", "step", "dx", "dy", "pen_up", "finish")
WRITTEN = ("choice", "text", "ids", "score", "seed", "steps", "finish")
PATH = "/v1/generate"
Keep = Callable[[dict[str, Any]], None]


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The text to go on from; - reads stdin [nothing].")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model [the only one].", autocompletion=complete_models("generate"))
    ] = None,
    condition: Annotated[
        str | None, typer.Option(help="The text that it begins from, of a model that begins from one [nothing].")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="How many steps at most [100].")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 takes the likeliest each time [1].")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from so many of the likeliest [all].")] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Draw from this share together [all].")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text [one is drawn].")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends it; again for more.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many texts.")] = 1,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Search for the likeliest, so many at a time; --n of them [draw].")
    ] = None,
    bias: Annotated[float | None, typer.Option(min=0, help="Of handwriting: the higher, the tidier [0].")] = None,
    svg: Annotated[Path | None, typer.Option(help="Of handwriting: draw the strokes to this file, .svg.")] = None,
    state_file: Annotated[
        Path | None, typer.Option(help="Go on from the state in this file, if it is there, and keep the new one in it.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Generate text: on a terminal as it comes, elsewhere a line of JSON for each text.

    A model of handwriting gives the points of a pen, a line each. The seed is shown, so that a text can be had again. A
    state goes on in this process and at a service that has the same keys.

    \b
      baton generate "ROMEO:" --model charlm --seed 1
      baton generate "To be" --model charlm --temperature 0 --stop "." --max-steps 200
      baton generate "JULIET:" --model charlm --state-file play.txt
      baton generate --model translate --condition "I am tired." --temperature 0
      baton generate --model translate --condition "I am tired." --beams 4 --n 2
      baton generate --model handwriting --condition mother --max-steps 300 --bias 1 --svg mother.svg
      baton generate --model charlm --n 3 --top-k 5 --json
    """
    _check_files(state_file, svg, output, n)
    state = None
    if state_file is not None and state_file.exists():
        state = read_state(state_file, f"--state-file {state_file}")
    for text in stop or []:
        check_text(text, "--stop")
    item = {
        "prompt": None if prompt is None else read_text(prompt, "the prompt"),
        "state": state,
        "condition": None if condition is None else {"text": check_text(condition, "--condition")},
    }
    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "stop": stop, "bias": bias}
    options = {"max_steps": max_steps, "n": n, "beams": beams, "svg": None if svg is None else True}
    body = _given({"model": model, **drawing, **options, "items": [_given(item)]})

    def keep(choice: dict[str, Any]) -> None:
        if svg is not None:
            _draw(svg, choice["svg"])
        if state_file is not None and "state" in choice:
            write_state(state_file, "--state-file", choice["state"], choice["step"], choice["expires_at"])

    with open_api(url, api_key) as api:
        if n == 1 and beams is None and wants_table(output, as_json):
            _show(api.post_events(PATH, {**body, "stream": True}), keep)
        else:
            with open_rows(output, as_json, SHOWN) as write:
                _write(api.post(PATH, body), write, keep)


def _check_files(state_file: Path | None, svg: Path | None, output: Path | None, n: int) -> None:
    """Raises: CommandError where what is generated has no place in these files, before anything is."""
    for option, file, what in (("--state-file", state_file, "keeps one state"), ("--svg", svg, "draws one text")):
        if file is not None and n > 1:
            raise CommandError(f"{option} {what}, and --n makes several texts; give one of them")
        check_target(file, option, output)
    if svg is None:
        return
    if svg.suffix.lower() != ".svg":
        raise CommandError(f"--svg {svg} must end with .svg")
    if state_file is not None and state_file.resolve() == svg.resolve():
        raise CommandError(f"--svg {svg} is the --state-file, too; name another file")


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _write(answer: dict[str, Any], write: Write, keep: Keep) -> None:
    """Write what was generated, even where it was cut short, and keep what is to be. Raises: Refusal where it was."""
    (result,) = answer["results"]
    for choice in result.get("choices", ()):
        for row in _rows(choice):
            write(row)
        if "points" in choice:
            _tell(choice)
        _warn(choice)
        keep(choice)
    if "error" in result:
        raise Refusal(result["error"])


def _rows(choice: dict[str, Any]) -> Iterator[Row]:
    """Yield a row for a text, or for each point of a pen."""
    if "points" not in choice:
        yield {name: choice[name] for name in WRITTEN if name in choice}
        return
    for step, (right, up, end) in enumerate(choice["points"], start=1):
        yield {"choice": choice["choice"], "step": step, "dx": right, "dy": up, "pen_up": end}


def _show(events: Iterable[dict[str, Any]], keep: Keep) -> None:
    """Print a text, ids, or a point a line, as they come. Keep the state and the picture of the last event, which has
    them even where the text was cut short."""
    for event in events:
        ids = "".join(f"{each} " for each in event.get("ids", ()))
        points = "".join(f"{right:g} {up:g} {end}\n" for right, up, end in event.get("points", ()))
        print(event.get("text", ids + points), end="", flush=True)
        if "finish" in event:
            typer.echo(err=True)
            _tell(event)
            _warn(event)
            keep(event)


def _tell(choice: dict[str, Any]) -> None:
    typer.echo(f"seed {choice['seed']}, {choice['steps']} steps, ended by {choice['finish']}", err=True)


def _warn(choice: dict[str, Any]) -> None:
    for warning in choice.get("warnings", ()):
        typer.echo(f"--condition: {warning}", err=True)


def _draw(file: Path, picture: str) -> None:
    """Raises: CommandError for a file that cannot be written."""
    try:
        file.write_text(picture)
    except OSError as failure:
        raise CommandError(f"--svg {file}: {failure.strerror}") from failure
