"""The output folder: part files that are whole or not there, and the job that they are of.

It knows files and their names, not rows. Invariant: a part has its name only when all of it is written, and a folder
holds parts of one job.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from service.cli.scoring.files import open_system
from service.cli.sources import import_arrow
from service.errors import CommandError

Form = Literal["parquet", "csv", "jsonl"]
JOB, DONE, FAILED = "_job.json", "_done.json", "_failed-"  # names that readers of folders of data pass over


class Parts:
    """The parts of one job in a folder, here or behind a URL."""

    def __init__(self, place: str, form: Form) -> None:
        """Raises: CommandError for a URL that cannot be opened."""
        arrow_fs = import_arrow("fs")
        self.place, self._form = place, form
        if "://" in place:
            self._system, self._path = open_system(place)
        else:
            self._system, self._path = arrow_fs.LocalFileSystem(), str(Path(place).absolute())

    def begin(self, job: dict[str, Any], *, resume: bool) -> set[str]:
        """Make the folder that of the job; return the names of the chunks whose parts are there.

        Raises: CommandError where it holds something else, or parts of the job and nobody said to resume it.
        """
        arrow_fs = import_arrow("fs")
        try:
            inside = self._system.get_file_info(arrow_fs.FileSelector(self._path, allow_not_found=True))
        except (OSError, NotADirectoryError) as failure:
            raise CommandError(f"--output {self.place} is no folder: {failure}") from failure
        names = {Path(info.path).name for info in inside}
        head, tail = "part-", f".{self._form}"
        done = {name[len(head) : -len(tail)] for name in names if name.startswith(head) and name.endswith(tail)}
        if done and JOB in names:
            self._check(job, resume=resume)
        elif any(not name.startswith((".", FAILED)) for name in names - {JOB}):
            raise CommandError(f"--output {self.place} holds other files; name a folder that is empty, or not there")
        else:
            self._system.create_dir(self._path, recursive=True)
            self._write(JOB, json.dumps(job, indent=1).encode())
        return done

    def _check(self, job: dict[str, Any], *, resume: bool) -> None:
        with self._system.open_input_stream(f"{self._path}/{JOB}") as file:
            there = json.loads(file.read())
        if different := [name for name in job if job[name] != there.get(name)]:
            raise CommandError(
                f"--output {self.place} is of another job: its {different[0]} was "
                f"{json.dumps(there.get(different[0]))[:200]}, and is {json.dumps(job[different[0]])[:200]} now"
            )
        if not resume:
            raise CommandError(f"--output {self.place} holds parts of this job; --resume goes on with it")

    def failed_before(self, done: set[str]) -> int:
        """Return how many items failed in the parts of chunks that are `done`."""
        return sum(self._failed(name) for name in done)

    def _failed(self, name: str) -> int:
        try:
            with self._system.open_input_stream(f"{self._path}/{FAILED}{name}.json") as file:
                return int(json.loads(file.read())["failed"])
        except FileNotFoundError:
            return 0

    def write(self, name: str, table: Any, failed: int) -> None:
        """Write the part of a chunk of which so many items failed, whole or not at all."""
        if failed:
            self._write(f"{FAILED}{name}.json", json.dumps({"failed": failed}).encode())
        arrow = import_arrow()
        sink = arrow.BufferOutputStream()
        if self._form == "parquet":
            import_arrow("parquet").write_table(table, sink, compression="zstd")
        elif self._form == "csv":
            import_arrow("csv").write_csv(_flat(table), sink)
        else:
            sink.write("".join(f"{_json(row)}\n" for row in table.to_pylist()).encode())
        self._write(f"part-{name}.{self._form}", sink.getvalue())

    def end(self, told: dict[str, Any]) -> None:
        """Say that all parts are there, and what came of the job."""
        self._write(DONE, json.dumps(told, indent=1).encode())

    def _write(self, name: str, content: Any) -> None:
        draft, target = f"{self._path}/.{name}.part", f"{self._path}/{name}"
        with self._system.open_output_stream(draft) as file:
            file.write(content)
        self._system.move(draft, target)


def _flat(table: Any) -> Any:
    """Return a table whose nested cells are JSON, as CSV has no others."""
    arrow = import_arrow()
    columns = [_as_json(column) if arrow.types.is_nested(column.type) else column for column in table.columns]
    return arrow.table(columns, names=table.schema.names)


def _as_json(column: Any) -> Any:
    cells = [None if cell is None else _json(cell) for cell in column.to_pylist()]
    return import_arrow().array(cells, "string")


def _json(value: Any) -> str:
    """Return a value as JSON; times, decimals and bytes of the input as text."""
    return json.dumps(value, ensure_ascii=False, default=str)
