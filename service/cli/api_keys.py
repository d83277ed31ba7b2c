"""`baton keys api`: the keys that callers show, in a file that the service reads.

It does not know who asks for a key. Invariant: a key is shown when it is made, and never again, for nobody has it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from service.cli.tables import print_table
from service.errors import CommandError
from service.settings import load_settings

TAKES_EFFECT = "A running service knows it at its next SIGHUP."
app = typer.Typer(help="Make, list and revoke the keys that callers show.", no_args_is_help=True, rich_markup_mode=None)


@app.command("new")
def new(
    tenant: Annotated[str | None, typer.Argument(help="Whose key it is; several keys may be of a tenant.")] = None,
    name: Annotated[str, typer.Option(help="What tells it from the tenant's other keys.")] = "default",
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="For how many days it opens; without it, until revoked.")
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="A key that loads and unloads models, and nothing else.")
    ] = False,
) -> None:
    """Print a fresh API key; a hash of it is kept in BATON_API_KEYS_FILE, or in api-keys.json of the state directory.

    \b
      baton keys api new acme
      baton keys api new acme --name laptop --days 90
      baton keys api new --admin
    """
    from service.web.api_keys import changing, keys_file, make_key

    if admin is (tenant is not None):
        raise CommandError("name a tenant, or give --admin")
    file = keys_file(load_settings())
    now = datetime.now(UTC).replace(microsecond=0)
    with changing(file) as entries:
        if any((one.tenant, one.name) == (tenant, name) and one.why_not(now.timestamp()) is None for one in entries):
            whose = f"tenant {tenant}" if tenant else "the admin"
            raise CommandError(f"{whose} has a key {name!r} already; give --name, or revoke that first")
        entry, key = make_key(name, now, tenant=tenant, days=days)
        entries.append(entry)
    typer.echo(
        f"key {entry.id} of {tenant or 'the admin'}; {file} has a hash of it, and it is shown this once.", err=True
    )
    typer.echo(TAKES_EFFECT, err=True)
    typer.echo(key)


@app.command("list")
def list_keys() -> None:
    """Show whose keys the service would know under the current settings; never the keys themselves.

    \b
      baton keys api list
    """
    from service.web.api_keys import keys_file, read_keys

    settings = load_settings()
    entries, now = read_keys(settings), datetime.now(UTC).timestamp()
    if not entries:
        typer.echo(f"no key in {keys_file(settings)} and none in BATON_API_KEYS: nobody is asked for one", err=True)
        return
    rows = [
        [
            entry.id,
            entry.tenant or "(admin)",
            entry.name,
            f"{entry.created:%Y-%m-%d}",
            f"{entry.expires:%Y-%m-%d}" if entry.expires else "never",
            entry.why_not(now) or "opens",
        ]
        for entry in entries
    ]
    print_table(("id", "tenant", "name", "created", "expires", "now"), rows)


@app.command("revoke")
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, as `baton keys api list` shows them.")],
) -> None:
    """Have keys open nothing any more; their entries stay, so that a service whose last key went is not open to all.

    \b
      baton keys api revoke 3f9a1c5e7b20
    """
    from service.web.api_keys import changing, keys_file

    file = keys_file(load_settings())
    now = datetime.now(UTC).replace(microsecond=0)
    with changing(file) as entries:
        places = {entry.id: place for place, entry in enumerate(entries)}
        for id in ids:
            if id not in places:
                raise CommandError(f"{file} has no key {id!r}; `baton keys api list` shows those that are there")
            entry = entries[places[id]]
            if entry.revoked is None:
                entries[places[id]] = entry.model_copy(update={"revoked": now})
    typer.echo(f"revoked {', '.join(ids)} in {file}. {TAKES_EFFECT}", err=True)
