"""One process's share: tables in, tables of results out.

It knows the calls of /v1 in its own process, not files or other processes. Invariant: a table's results are those that
the service would answer, whatever else is scored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from service.cli.api import open_api
from service.cli.batches import Batch, Item
from service.cli.scoring.tasks import ERROR, Outcome, Wanted, find_work
from service.contract.manifest import Manifest
from service.errors import CommandError


@dataclass(frozen=True)
class Job:
    """What is scored, by which model; it goes to each process."""

    manifest: Manifest
    wanted: Wanted
    strict: bool


class Scorer:
    """A model in this process, asked again and again."""

    def __init__(self, job: Job) -> None:
        """Raises: StartupError when the models directory or a setting will not do."""
        self._work, self._strict = find_work(job.manifest, job.wanted), job.strict
        self._options = {"model": job.manifest.name, **self._work.options}
        self._stack = ExitStack()
        self._api = self._stack.enter_context(open_api(None, None))

    def close(self) -> None:
        self._stack.close()

    def score(self, table: Any, first: int = 1) -> tuple[Any, list[str]]:
        """Return the results of a table whose first row has the number `first`, and what failed of it.

        Raises: CommandError where the job is strict and something failed; what `open_api` refuses.
        """
        items = self._work.items(table)
        answers = iter(self._answers([item for item in items if isinstance(item, Item)]))
        results = [next(answers) if isinstance(item, Item) else {ERROR: item} for item in items]
        failed = [
            f"{self._name(item, first + place)}: {result[ERROR]}"
            for place, (item, result) in enumerate(zip(items, results, strict=True))
            if ERROR in result
        ]
        if failed and self._strict:
            raise CommandError(failed[0])
        return self._work.table(table, results), failed

    def _name(self, item: Item | str, row: int) -> str:
        if self._work.group is not None and isinstance(item, Item):
            return f"{self._work.group} {item.place}"
        return f"row {row}"

    def _answers(self, items: Sequence[Item]) -> list[Outcome]:
        """Return the result of each item; one of more steps than a request may hold takes several."""
        most = self._api.limits["max_steps"]
        left = [deque(self._work.pieces(item.content, most)) for item in items]
        results: list[Outcome] = [{} for _ in items]
        going = list(range(len(items)))
        while going:
            states = [{"state": results[place]["state"]} if results[place] else {} for place in going]
            asked = [
                Item(items[place].place, {**left[place].popleft(), **state})
                for place, state in zip(going, states, strict=True)
            ]
            for place, result in zip(going, self._ask(asked), strict=True):
                results[place] = result
            going = [place for place in going if left[place] and ERROR not in results[place]]
        return results

    def _ask(self, items: Sequence[Item]) -> Iterator[Outcome]:
        for result in Batch(self._api, self._work.path, self._work.field, self._options, items).outcomes():
            error = result.get(ERROR)
            yield result if error is None else {ERROR: f"{error['code']}: {error['message']}"}
