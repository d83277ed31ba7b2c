"""What each task makes of a chunk: the items of its call, and columns of their results.

It knows tables, manifests and the results of /v1, not where rows come from or who asks. Invariant: every row, or every
group of rows, has one row of results in its order, with an error where it has nothing else; a forecast has as many rows
as it forecasts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.cli.batches import Item
from service.cli.forecasts import name_bounds
from service.cli.sources import import_arrow
from service.contract.manifest import Manifest
from service.errors import CommandError

ERROR = "error"
TEXT_TASKS = {"sentiment": "/v1/sentiment", "classify": "/v1/classify", "tag": "/v1/tag", "translate": "/v1/translate"}
Outcome = Mapping[str, Any]


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
    """A task: `items` gives what is asked of a table, or why it cannot be, and `table` what is written of the results.

    `columns` must be there, and `numbers` among them hold numbers. Rows of a `group` are an item, or each row is.
    """

    path: str
    field = "inputs"

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        """Raises: CommandError for what the task does not take, or needs."""
        self.manifest, self.wanted = manifest, wanted
        self.columns: list[str] = []
        self.numbers: tuple[str, ...] = ()
        self.group: str | None = None
        self.options: dict[str, Any] = {"scores": "all"} if wanted.scores else {}

    def items(self, table: Any) -> list[Item | str]:
        return self._texts(table) if self.group is None else self._sequences(table)

    def pieces(self, content: dict[str, Any], most: int) -> list[dict[str, Any]]:
        """Return an item as parts of at most `most` steps, each to be asked with the state after the one before."""
        return [content]

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

    def _sequences(self, table: Any) -> list[Item | str]:
        """Return an item for each group: its numbers, or rows of them."""
        found: list[Item | str] = []
        for name, rows in self._groups(table):
            columns = [rows.column(number).to_pylist() for number in self.numbers]
            steps = {"values": columns[0]} if len(columns) == 1 else {"inputs": [*zip(*columns, strict=True)]}
            found.append(Item(str(name), steps))
        return found

    def _groups(self, table: Any) -> Iterator[tuple[Any, Any]]:
        """Yield each group of rows that follow each other, with its name."""
        names = table.column(self.group).to_pylist()
        start = 0
        for end in range(1, len(names) + 1):
            if end == len(names) or names[end] != names[start]:
                yield names[start], table.slice(start, end - start)
                start = end

    def _with_names(self, table: Any, results: Any) -> Any:
        """Return the results of groups behind their names."""
        names = import_arrow().array([name for name, _ in self._groups(table)], table.schema.field(self.group).type)
        return results.add_column(0, self.group, [names])

    def _texts(self, table: Any) -> list[Item | str]:
        texts = table.column(self.wanted.text).to_pylist()
        return [_text_item(text, place) for place, text in enumerate(texts)]


def find_work(manifest: Manifest, wanted: Wanted) -> Work:
    """Return how a model is asked, in its own task.

    Raises: CommandError for a task that is not scored, or for what its models do not take.
    """
    if manifest.task in TEXT_TASKS and manifest.text is not None:
        return _Texts(manifest, wanted)
    works: dict[str, type[Work]] = {"forecast": _Forecasts, "step": _Sessions, "classify": _Labels}
    if manifest.task not in works:
        raise CommandError(f"{manifest.name} is for the task {manifest.task!r}, which is not scored")
    return works[manifest.task](manifest, wanted)


class _Texts(Work):
    """A row is a text: its label, its tags, its translation."""

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self.path = TEXT_TASKS[manifest.task]
        if manifest.task == "classify":
            self.field = "items"
        self._refuse(
            "--id", "--value", "--horizon", "--states", *(["--scores"] if manifest.task == "translate" else [])
        )
        self._read_texts()

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        if self.manifest.task == "translate":
            results = [{**result, "translation": result.get("text")} for result in results]
        return _beside(table, self.wanted.keep, _from_rows(results, self._members()))

    def _members(self) -> list[Any]:
        arrow = import_arrow()
        number, count, text = arrow.float64(), arrow.int32(), arrow.string()
        if self.manifest.task == "translate":
            return [("translation", text), ("score", number), ("finish", text), ("tokens", count)]
        label = _label(self.manifest, self.wanted)
        if self.manifest.task == "tag":
            token = arrow.struct([("text", text), ("start", count), ("end", count), *label])
            return [("tokens", arrow.list_(token)), ("unknown_ratio", number)]
        assert self.manifest.text is not None
        polarity = [("polarity", number)] if self.manifest.text.polarity is not None else []
        return [*label, *polarity, ("tokens", count), ("truncated", arrow.bool_()), ("unknown_ratio", number)]


class _Forecasts(Work):
    """Rows of an id are a series, in their order; each value that is forecast is a row."""

    path, field = "/v1/forecast", "series"

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self._refuse("--column", "--keep", "--scores", "--states")
        self._read_groups()
        if len(wanted.values) != 1:
            raise CommandError("a forecast is of one column; name it with --value, once")
        if wanted.horizon is None:
            raise CommandError("how many values are to be forecast? Say it with --horizon")
        self.options = {"horizon": wanted.horizon}

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        assert self.manifest.forecast is not None
        arrow, bounds = import_arrow(), name_bounds([f"{level:g}" for level in self.manifest.forecast.quantiles])
        series, number = self.columns[0], arrow.float64()
        members = [(series, table.schema.field(series).type), ("step", arrow.int32()), ("mean", number)]
        members += [*((name, number) for name in bounds), (ERROR, arrow.string())]
        found: dict[str, list[Any]] = {name: [] for name, _ in members}
        for (name, _), result in zip(self._groups(table), results, strict=True):
            means = result.get("mean", [None])
            found[series] += [name] * len(means)
            found["step"] += range(1, len(means) + 1) if "mean" in result else [None]
            found["mean"] += means
            for bound, quantile in bounds.items():
                found[bound] += result["quantiles"][quantile] if "mean" in result else [None]
            found[ERROR] += [result.get(ERROR)] * len(means)
        return arrow.table(found, schema=arrow.schema(members))


class _Labels(Work):
    """Rows of an id are a sequence, in their order, that has a label."""

    path, field = "/v1/classify", "items"

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self._refuse("--column", "--keep", "--horizon", "--states")
        self._read_groups()

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        return self._with_names(table, _from_rows(results, _label(self.manifest, self.wanted)))


class _Sessions(Work):
    """A session of a model that steps: the rows of an id, in their order, or the text of a row."""

    path, field = "/v1/step", "items"

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self._refuse("--scores", "--horizon")
        if manifest.text is not None:
            self._refuse("--id", "--value")
            self._read_texts()
        else:
            self._refuse("--column", "--keep")
            self._read_groups()

    def pieces(self, content: dict[str, Any], most: int) -> list[dict[str, Any]]:
        ((member, steps),) = content.items()
        if member == "text":
            return [content]
        return [{member: steps[start : start + most]} for start in range(0, len(steps), most)]

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        members = [("step", import_arrow().int64())]
        members += [(tensor.name, _cell(len(tensor.sizes))) for tensor in self.manifest.outputs]
        if self.wanted.states:
            members.append(("state", import_arrow().string()))
        rows = _from_rows([{**result, **result.get("outputs", {})} for result in results], members)
        return _beside(table, self.wanted.keep, rows) if self.group is None else self._with_names(table, rows)


def _text_item(text: Any, place: int) -> Item | str:
    if isinstance(text, str):
        return Item(str(place), {"text": text})
    return "empty_input: there is no text" if text is None else f"invalid_request: no text: {text!r}"


def _label(manifest: Manifest, wanted: Wanted) -> list[Any]:
    arrow = import_arrow()
    members = [("label", arrow.string()), ("score", arrow.float64())]
    if wanted.scores:
        labels = manifest.outputs[0].labels or ()
        members.append(("scores", arrow.struct([(name, arrow.float64()) for name in labels])))
    return members


def _cell(axes: int) -> Any:
    """Return the type of an output with so many axes beside batch and time."""
    arrow = import_arrow()
    kind = arrow.float64()
    for _ in range(axes):
        kind = arrow.list_(kind)
    return kind


def _from_rows(rows: Sequence[Outcome], members: Sequence[Any]) -> Any:
    arrow = import_arrow()
    return arrow.Table.from_pylist(rows, arrow.schema([*members, (ERROR, arrow.string())]))


def _beside(table: Any, keep: Sequence[str] | None, results: Any) -> Any:
    """Return columns of the input with those of the results behind them.

    Raises: CommandError where both have a column of that name.
    """
    kept = table if keep is None else table.select(list(keep))
    if both := sorted({*kept.schema.names} & {*results.schema.names}):
        raise CommandError(f"the input has a column {both[0]!r}, as the results have: name those to keep with --keep")
    for name in results.schema.names:
        kept = kept.append_column(results.schema.field(name), results.column(name))
    return kept
