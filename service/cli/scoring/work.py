"""What is asked of a table: items of a call, and why some are none; and how the application of this process answers.

It knows tables, items and results of /v1, not what a task's results hold. Invariant: every row, or every group of rows,
has one result, in its order.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from service.cli.api import Api, open_api, read_models
from service.cli.batches import Batch, Item
from service.cli.scoring.groups import find_names, find_starts
from service.cli.sources import import_arrow
from service.contract.manifest import Manifest
from service.errors import CommandError
from service.model.onnx_session import Array

if TYPE_CHECKING:
    from service.engine.registry import Registry
    from service.settings import Settings
    from service.web.batch import Plan

ERROR = "error"
AT_ONCE = 1024  # items that are prepared together, and sorted by length
Outcome = Mapping[str, Any]
Content = Any  # of an item: a text, or the members that hold its numbers


@dataclass(frozen=True)
class Unfit:
    """Why a row, or a group of rows, is no item."""

    reason: str


@dataclass(frozen=True)
class Wanted:
    """What the user asks for: names of columns, and options of the call. Units: horizon in values."""

    text: str | None = None
    group: str | None = None
    values: tuple[str, ...] = ()
    keep: tuple[str, ...] | None = None
    horizon: int | None = None
    scores: bool = False
    states: bool = False


class Work(ABC):
    """A task: `items` gives what is asked of a table, `ask` the answers, and `table` what is written of these.

    `columns` must be there, and `numbers` among them hold numbers. Rows of a `group` are an item, or each row is.
    """

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        """Raises: CommandError for what the task does not take, or needs."""
        self.manifest, self.wanted = manifest, wanted
        self.columns: list[str] = []
        self.numbers: tuple[str, ...] = ()
        self.group: str | None = None

    def items(self, table: Any) -> list[Content | Unfit]:
        return self._texts(table) if self.group is None else self._sequences(table)

    def places(self, table: Any, first: int) -> list[str]:
        """Return what the user calls each item of a table, whose first row has the number `first`."""
        if self.group is None:
            return [f"row {first + place}" for place in range(table.num_rows)]
        return [f"{self.group} {name}" for name in self._names(table).to_pylist()]

    @abstractmethod
    def open(self) -> None:
        """Make ready to ask, until this process ends. Raises: StartupError when models or a setting will not do."""

    @abstractmethod
    def ask(self, contents: Sequence[Content]) -> list[Outcome]:
        """Return the result of each item, or an object with why there is none."""

    @abstractmethod
    def table(self, table: Any, results: Sequence[Outcome]) -> Any: ...

    def _refuse(self, *options: str) -> None:
        """Raises: CommandError for one of the options that was given."""
        given = {
            "--column": self.wanted.text,
            "--id": self.wanted.group,
            "--value": self.wanted.values,
            "--keep": self.wanted.keep,
            "--horizon": self.wanted.horizon,
            "--scores": self.wanted.scores,
            "--states": self.wanted.states,
        }
        if wrong := [option for option in options if given[option]]:
            raise CommandError(f"{wrong[0]} is not for {self.manifest.name}, whose task is {self.manifest.task!r}")

    def _read_texts(self) -> None:
        if self.wanted.text is None:
            raise CommandError(f"{self.manifest.name} reads texts; name their column with --column")
        self.columns = [self.wanted.text, *(self.wanted.keep or ())]

    def _read_groups(self) -> None:
        if self.wanted.group is None or not self.wanted.values:
            message = "name the column that tells them apart with --id, and that of their values with --value"
            raise CommandError(f"{self.manifest.name} reads series of rows; {message}")
        self.group, self.numbers = self.wanted.group, self.wanted.values
        self.columns = [self.wanted.group, *self.wanted.values]

    def _check_group(self, results: Sequence[str]) -> None:
        """Raises: CommandError where the results would have a column of the name that tells groups apart."""
        if self.group in results:
            raise CommandError(f"--id {self.group}: the results have a column of that name; rename that of the input")

    def _texts(self, table: Any) -> list[Content | Unfit]:
        try:
            return [_text(cell) for cell in table.column(self.wanted.text).to_pylist()]
        except UnicodeDecodeError as failure:
            raise CommandError(f"the column {self.wanted.text!r} holds text that is not UTF-8: {failure}") from None

    def _sequences(self, table: Any) -> list[Content | Unfit]:
        """Return an item for each group of rows."""
        columns = [_numbers(table.column(number)) for number in self.numbers]
        starts = find_starts(table.column(self.group))
        spans = zip(starts, [*starts[1:], table.num_rows], strict=True)
        return [self._sequence([column[start:end] for column in columns]) for start, end in spans]

    def _sequence(self, columns: Sequence[Array]) -> Content | Unfit:
        """Return an item of columns of numbers, NaN where there is none: its numbers, or rows of them."""
        for number, values in zip(self.numbers, columns, strict=True):
            if np.isnan(values).any():
                return Unfit(f"invalid_request: a row has no number in {number}")
        lists = [values.tolist() for values in columns]
        return {"values": lists[0]} if len(lists) == 1 else {"inputs": [*zip(*lists, strict=True)]}

    def _names(self, table: Any) -> Any:
        """Return the name of each group of rows."""
        return find_names(table.column(self.group))

    def _with_names(self, table: Any, results: Any) -> Any:
        """Return the results of groups behind their names."""
        self._check_group(results.schema.names)
        return results.add_column(0, self.group, [self._names(table)])


class Planned(Work):
    """A task whose items are a run each: they go to the engine itself, without JSON, a queue or the application."""

    engines: Registry
    settings: Settings

    @abstractmethod
    def plan(self, contents: Sequence[Content]) -> Plan[Any]: ...

    def open(self) -> None:
        from service.engine.loader import Loader
        from service.metrics import Metrics

        self.settings, versions = read_models()
        self.engines = Loader(self.settings, Metrics(), time.time, versions).engines

    def ask(self, contents: Sequence[Content]) -> list[Outcome]:
        from service.web.batch import carry_out_alone

        parts = [contents[start : start + AT_ONCE] for start in range(0, len(contents), AT_ONCE)]
        results = [result for part in parts for result in carry_out_alone(self.plan(part))]
        return [result if isinstance(result, dict) else _failed(result.body()) for result in results]


class Called(Work):
    """A task of several runs an item: it is called as a client would call it."""

    path: str
    field = "inputs"
    _api: Api

    def open(self) -> None:
        self._opened = ExitStack()  # which would end if nobody kept it
        self._api = self._opened.enter_context(open_api(None, None))

    def pieces(self, content: Content, most: int) -> list[dict[str, Any]]:
        """Return an item as parts of at most `most` steps, each to be asked with the state after the part before."""
        return [{"text": content}]

    def ask(self, contents: Sequence[Content]) -> list[Outcome]:
        left = [deque(self.pieces(content, self._api.limits["max_steps"])) for content in contents]
        results: list[Outcome] = [{} for _ in contents]
        going = list(range(len(contents)))
        while going:
            states = [{"state": results[place]["state"]} if results[place] else {} for place in going]
            items = [
                Item(str(place), {**left[place].popleft(), **state}) for place, state in zip(going, states, strict=True)
            ]
            batch = Batch(self._api, self.path, self.field, {"model": self.manifest.name}, items)
            for place, result in zip(going, batch.outcomes(), strict=True):
                results[place] = _failed(result[ERROR]) if ERROR in result else result
            going = [place for place in going if left[place] and ERROR not in results[place]]
        return results


def _failed(error: dict[str, Any]) -> Outcome:
    return {ERROR: f"{error['code']}: {error['message']}"}


def _text(cell: Any) -> Content | Unfit:
    if isinstance(cell, str):
        return cell
    return Unfit("empty_input: there is no text" if cell is None else f"invalid_request: no text: {cell!r}")


def _numbers(column: Any) -> Array:
    """Return the numbers of a column, NaN where there is none, or none that JSON has."""
    numbers = import_arrow("compute").cast(column, import_arrow().float64()).to_numpy()
    return np.where(np.isfinite(numbers), numbers, np.nan)
