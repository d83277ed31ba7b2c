"""`baton generate`: what a model writes after a prompt, from a state on, from a condition, or from nothing.

It knows where a prompt and a state come from and how a text is shown, not how it is drawn. Invariant: the state that is
kept is that after the text which was shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.api import Refusal, open_api
from service.cli.options import ApiKey, AsJson, Output, Url, complete_models
from service.cli.sinks import Write, open_rows, wants_table
from service.cli.sources import check_text, read_text
from service.cli.state_file import check_state_file, read_state, write_state
from service.errors import CommandError

SHOWN = ("choice", "text", "ids", "points", "finish")
WRITTEN = ("choice", "text", "ids", "points", "seed", "steps", "finish")
PATH = "/v1/generate"


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
    state_file: Annotated[
        Path | None, typer.Option(help="Go on from the state in this file, if it is there, and keep the new one in it.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Generate text: on a terminal as it comes, elsewhere a line of JSON for each text.

    The seed is shown, so that a text can be had again. A state goes on in this process and at a service that has the
    same keys.

    \b
      baton generate "ROMEO:" --model charlm --seed 1
      baton generate "To be" --model charlm --temperature 0 --stop "." --max-steps 200
      baton generate "JULIET:" --model charlm --state-file play.txt
      baton generate --model translate --condition "I am tired." --temperature 0
      baton generate --model charlm --n 3 --top-k 5 --json
    """
    if state_file is not None and n > 1:
        raise CommandError("--state-file keeps one state, and --n makes several texts; give one of them")
    check_state_file(state_file, "--state-file", output)
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
    options = {"model": model, "max_steps": max_steps, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    body = _given({**options, "seed": seed, "stop": stop, "n": n, "items": [_given(item)]})
    with open_api(url, api_key) as api:
        if n == 1 and wants_table(output, as_json):
            _show(api.post_events(PATH, {**body, "stream": True}), state_file)
        else:
            with open_rows(output, as_json, SHOWN) as write:
                _write(api.post(PATH, body), write, state_file)


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _write(answer: dict[str, Any], write: Write, state_file: Path | None) -> None:
    """Write what was generated, even where it was cut short, and keep its state. Raises: Refusal where it was."""
    (result,) = answer["results"]
    for choice in result.get("choices", ()):
        write({name: choice[name] for name in WRITTEN if name in choice})
        _keep(choice, state_file)
    if "error" in result:
        raise Refusal(result["error"])


def _show(events: Iterable[dict[str, Any]], state_file: Path | None) -> None:
    """Print a text, ids, or a point a line, as they come, and keep the state, which the last event has even of what was
    cut short."""
    for event in events:
        ids = "".join(f"{each} " for each in event.get("ids", ()))
        points = "".join(f"{right:g} {up:g} {end}\n" for right, up, end in event.get("points", ()))
        print(event.get("text", ids + points), end="", flush=True)
        if "finish" in event:
            typer.echo(f"\nseed {event['seed']}, {event['steps']} steps, ended by {event['finish']}", err=True)
            _keep(event, state_file)


def _keep(choice: dict[str, Any], state_file: Path | None) -> None:
    if state_file is not None:
        write_state(state_file, "--state-file", choice["state"], choice["step"], choice["expires_at"])
