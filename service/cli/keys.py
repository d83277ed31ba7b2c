"""`baton keys`: the keys that seal state tokens, and with `api` those that callers show."""

from __future__ import annotations

import typer

from service.cli import api_keys, token_keys

app = typer.Typer(
    help="Make and list keys, of state tokens and of callers.", no_args_is_help=True, rich_markup_mode=None
)
app.command("new")(token_keys.new)
app.command("list")(token_keys.list_keys)
app.add_typer(api_keys.app, name="api")
