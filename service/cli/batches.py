"""Many items through a batch call: cut into requests of what the service takes, several under way.

It knows items and their places, not what they hold. Invariant: every item is answered or reported once, in the order in
which it came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import typer
from pydantic_core import to_json

from service.cli.api import Api, Refusal, explain
from service.errors import CommandError

BODY_TOO_LARGE = "body_too_large"
ITEM = re.compile(r"^\w+\[\d+\]\.?")  # the place in the request, which says nothing to who gave a file
FAILED = 1


@dataclass(frozen=True, slots=True)
class Item:
    """What is asked for; `place` is where the user finds it, `line` the number of its line, if it has one."""

    place: str
    content: dict[str, Any]
    line: int | None = None


class Batch:
    """A call with all `items`; `failed` counts those that were reported on stderr."""

    def __init__(self, api: Api, path: str, field: str, options: dict[str, Any], items: Sequence[Item]) -> None:
        self._api, self._path, self._field = api, path, field
        self._options = {name: value for name, value in options.items() if value is not None}
        self._items = items
        self.failed = 0

    def results(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the place of each item that was answered, with its result; the others are reported on stderr.

        Raises: Refusal when a request is refused as a whole; CommandError when no Baton service answers.
        """
        groups = list(self._groups())
        with _progress(len(self._items), shown=len(groups) > 1) as advance:
            for place, result in self._outcomes(groups, advance):
                if "error" in result:
                    self._report(self._items[place], result["error"])
                else:
                    yield place, result

    def outcomes(self) -> Iterator[dict[str, Any]]:
        """Yield for each item its result, or an object with the member `error`; nothing is reported.

        Raises: as `results`.
        """
        for _, result in self._outcomes(list(self._groups()), lambda _: None):
            yield result

    def _outcomes(
        self, groups: Sequence[list[bytes]], advance: Callable[[int], object]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        answers = self._api.post_each(self._path, map(self._body, groups))
        places = count()
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, Refusal) and answer.code == BODY_TOO_LARGE and len(group) == 1:
                yield next(places), {"error": answer.error}
                continue
            if isinstance(answer, Refusal):
                raise answer
            if len(answer["results"]) != len(group):
                raise CommandError(f"{len(answer['results'])} results came for {len(group)} items")
            yield from ((place, result) for result, place in zip(answer["results"], places, strict=False))
            advance(len(group))

    def end(self) -> None:
        """Raises: typer.Exit with status 1 when an item failed."""
        if self.failed:
            raise typer.Exit(FAILED)

    def _report(self, item: Item, error: dict[str, Any]) -> None:
        self.failed += 1
        field = ITEM.sub("", error.get("field") or "")
        typer.echo(f"baton: {item.place}: {explain({**error, 'field': field})}", err=True)

    def _groups(self) -> Iterator[list[bytes]]:
        """Yield the items in JSON, so many together as a request may hold."""
        limits = self._api.limits
        most, room = limits["max_items"], limits["max_body_bytes"] - len(self._body([]))
        group: list[bytes] = []
        left = room
        for item in self._items:
            content = to_json(item.content)
            if group and (len(group) == most or len(content) > left):
                yield group
                group, left = [], room
            group.append(content)
            left -= len(content) + 1
        if group:
            yield group

    def _body(self, contents: Iterable[bytes]) -> bytes:
        head = to_json({**self._options, self._field: []})
        return head[:-2] + b",".join(contents) + head[-2:]


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Show on a terminal's stderr how many of `total` items are done; what is yielded takes how many more."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[1:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("", total=total)
        yield lambda more: progress.advance(task, more)
