"""One process's share: tables in, tables of results out.

It knows the application in its own process, not files or other processes. Invariant: a table's results are those that
the service would answer, whatever else is scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.cli.scoring.inputs import Chunk
from service.cli.scoring.parts import Parts
from service.cli.scoring.tally import Scored
from service.cli.scoring.tasks import find_work
from service.cli.scoring.work import ERROR, Unfit, Wanted
from service.contract.files import read_manifest
from service.contract.manifest import Manifest
from service.errors import CommandError
from service.model.repository import find_versions
from service.settings import load_settings


@dataclass(frozen=True)
class Job:
    """What is scored, by which model; it goes to each process."""

    manifest: Manifest
    wanted: Wanted
    strict: bool


def find_model(name: str) -> Manifest:
    """Return the manifest of the newest version. Raises: ManifestError where there is none."""
    return read_manifest(find_versions(load_settings().models_dir, of=name)[-1])


class Scorer:
    """A model in this process, asked again and again."""

    def __init__(self, job: Job) -> None:
        """Raises: StartupError when the models directory or a setting will not do."""
        self._work, self._strict = find_work(job.manifest, job.wanted), job.strict
        self._work.open()

    def put(self, chunk: Chunk, parts: Parts) -> Scored:
        """Score a chunk, and write its part.

        Raises: CommandError where the job is strict and something failed; what `Work.open` refuses.
        """
        try:
            results, failed = self._score(chunk.table, chunk.first)
        except CommandError as failure:
            raise CommandError(f"{chunk.place}, {failure}") from None
        parts.write(chunk.name, results, len(failed))
        example = f"{chunk.place}, {failed[0]}" if failed else None
        return Scored(chunk.place, chunk.table.num_rows, chunk.share, chunk.groups, len(failed), example)

    def _score(self, table: Any, first: int) -> tuple[Any, list[str]]:
        """Return the results of a table whose first row has the number `first`, and what failed of it."""
        items = self._work.items(table)
        answers = iter(self._work.ask([item for item in items if not isinstance(item, Unfit)]))
        results = [{ERROR: item.reason} if isinstance(item, Unfit) else next(answers) for item in items]
        failed = [
            f"{place}: {result[ERROR]}"
            for place, result in zip(self._work.places(table, first), results, strict=True)
            if ERROR in result
        ]
        if failed and self._strict:
            raise CommandError(failed[0])
        return self._work.table(table, results), failed
