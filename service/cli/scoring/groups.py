"""Groups: rows of a table that follow each other and have the same name.

It knows columns of names, not what the rows hold. Invariant: a group stands together in one file, or is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.cli.sources import import_arrow
from service.errors import CommandError


class Groups:
    """The groups that have been seen, each of which must stand together."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._seen: set[int] = set()

    def see(self, place: str, names: Sequence[str]) -> None:
        """Raises: CommandError where a group has been seen before."""
        for name in names:
            key = hash(name)  # the names themselves may be long
            if key in self._seen:
                apart = f"rows of {self._column} {name!r} stand apart; sort the input by {self._column} first"
                raise CommandError(f"{place}: {apart}")
            self._seen.add(key)


def find_starts(names: Any) -> list[int]:
    """Return where the groups of a column of names begin; a table without rows has none.

    A row without a name counts as of the group before it.
    """
    if not len(names):
        return []
    names = names.combine_chunks()
    changes = import_arrow("compute").not_equal(names[1:], names[:-1])
    return [0, *(changes.to_numpy(zero_copy_only=False).nonzero()[0] + 1).tolist()]


def find_names(names: Any) -> Any:
    """Return the name of each group, as a column."""
    return names.take(find_starts(names)).combine_chunks()


def plain(name: Any) -> str:
    """Return a name as text: 1 in a file is 1.0 in another, where a row had none, and "1" in one of text."""
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)
