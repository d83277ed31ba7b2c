"""`baton keys new` and `list`: the keys that seal state tokens.

It does not know what a token holds. Invariant: no key is shown but the one that was just made.
"""

from __future__ import annotations

import typer

from service.cli.tables import print_table
from service.settings import load_settings


def new() -> None:
    """Print a fresh token key, fit for BATON_TOKEN_KEYS; its id and what to do with it go to stderr.

    \b
      baton keys new
      baton keys new > token.key
    """
    from service.state.keys import key_id, new_key

    key = new_key()
    typer.echo(f"key {key_id(key, 'the new key').hex()}; keep it secret.", err=True)
    typer.echo(
        "To rotate, put it last in BATON_TOKEN_KEYS of every replica, then first; take the old one out a "
        "BATON_STATE_TTL_S later (docs/state.md).",
        err=True,
    )
    typer.echo(key)


def list_keys() -> None:
    """Show the key ring that a service would have under the current settings; never the keys themselves.

    An id is what the log names where a token was sealed with a key that is not in the ring.

    \b
      baton keys list
      BATON_STATE_DIR=/var/lib/baton baton keys list
    """
    from service.state.keys import KEY_FILE, kept_key, key_id

    settings = load_settings()
    ring = [(key.get_secret_value(), f"BATON_TOKEN_KEYS[{n}]") for n, key in enumerate(settings.token_keys)]
    if not ring and (kept := kept_key(settings.state_dir)) is not None:
        ring = [(kept, str(settings.state_dir / KEY_FILE))]
    if not ring:
        typer.echo(f"no key yet: the first start will make one in {settings.state_dir}", err=True)
        return
    uses = ["opens" if number else "seals, opens" for number in range(len(ring))]
    rows = [[key_id(key, source).hex(), use, source] for (key, source), use in zip(ring, uses, strict=True)]
    print_table(("id", "use", "from"), rows)
