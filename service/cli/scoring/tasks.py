"""What each task asks of tables, and the columns of its results.

It knows tables, manifests and the results of /v1, not where rows come from or who asks. Invariant: every row, or every
group of rows, has one row of results in its order, with an error where it has nothing else; a forecast has as many rows
as it forecasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from service.cli.forecasts import name_bounds
from service.cli.scoring.work import ERROR, Called, Content, Outcome, Planned, Unfit, Wanted, Work
from service.cli.sources import import_arrow
from service.contract.manifest import Manifest
from service.engine.rows import Answer
from service.errors import CommandError
from service.model.onnx_session import Array

if TYPE_CHECKING:
    from service.web.batch import Plan


def find_work(manifest: Manifest, wanted: Wanted) -> Work:
    """Return how a model is asked, in its own task.

    Raises: CommandError for a task that is not scored, or for what its models do not take.
    """
    works: dict[str, type[Work]] = {
        "sentiment": _Sentiments,
        "tag": _Tags,
        "translate": _Translations,
        "classify": _Labels if manifest.text is None else _TextLabels,
        "forecast": _Forecasts,
        "step": _Sessions,
    }
    if manifest.task not in works:
        raise CommandError(f"{manifest.name} is for the task {manifest.task!r}, which is not scored")
    return works[manifest.task](manifest, wanted)


class _Texts(Planned):
    """A row is a text that has a label, or labels."""

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self._refuse("--id", "--value", "--horizon", "--states")
        self._read_texts()

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        return _beside(table, self.wanted.keep, _from_rows(results, self._members()))

    def _members(self) -> list[Any]:
        arrow = import_arrow()
        assert self.manifest.text is not None
        polarity = [("polarity", arrow.float64())] if self.manifest.text.polarity is not None else []
        reading = [("tokens", arrow.int32()), ("truncated", arrow.bool_()), ("unknown_ratio", arrow.float64())]
        return [*_label(self.manifest, self.wanted), *polarity, *reading]


class _Sentiments(_Texts):
    def plan(self, contents: Sequence[Content]) -> Plan[Any]:
        from service.endpoints.sentiment import SentimentRequest, plan

        name, scores = self.manifest.name, _shown_scores(self.wanted)
        request = SentimentRequest.model_construct(model=name, inputs=[*contents], scores=scores)
        return plan(self.engines, self.settings, request)


class _TextLabels(_Texts):
    def plan(self, contents: Sequence[Content]) -> Plan[Any]:
        return _plan_labels(self, [{"text": content} for content in contents])


class _Tags(_Texts):
    def plan(self, contents: Sequence[Content]) -> Plan[Any]:
        from service.endpoints.tag import TagRequest, plan

        name, scores = self.manifest.name, _shown_scores(self.wanted)
        request = TagRequest.model_construct(model=name, inputs=[*contents], scores=scores)
        return plan(self.engines, self.settings, request)

    def _members(self) -> list[Any]:
        arrow = import_arrow()
        places = [("text", arrow.string()), ("start", arrow.int32()), ("end", arrow.int32())]
        token = arrow.struct([*places, *_label(self.manifest, self.wanted)])
        return [("tokens", arrow.list_(token)), ("unknown_ratio", arrow.float64())]


class _Translations(Called):
    """A row is a text that is translated."""

    path = "/v1/translate"

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self._refuse("--id", "--value", "--horizon", "--states", "--scores")
        self._read_texts()

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        arrow = import_arrow()
        members = [("translation", arrow.string()), ("score", arrow.float64())]
        members += [("finish", arrow.string()), ("tokens", arrow.int32())]
        rows = [{**result, "translation": result.get("text")} for result in results]
        return _beside(table, self.wanted.keep, _from_rows(rows, members))


class _Forecasts(Planned):
    """Rows of an id are a series, in their order; each value that is forecast is a row."""

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self._refuse("--column", "--keep", "--scores", "--states")
        self._read_groups()
        if len(wanted.values) != 1:
            raise CommandError("a forecast is of one column; name it with --value, once")
        if wanted.horizon is None:
            raise CommandError("how many values are to be forecast? Say it with --horizon")

    def _sequence(self, columns: Sequence[Array]) -> Content | Unfit:
        """Return the numbers as they are: the forecast says which are missing."""
        (values,) = columns
        return values

    def plan(self, contents: Sequence[Content]) -> Plan[Any]:
        from service.endpoints.forecast.endpoint import ForecastRequest, Series, plan

        series = [Series.model_construct(values=values) for values in contents]
        name, horizon = self.manifest.name, self.wanted.horizon
        request = ForecastRequest.model_construct(model=name, series=series, horizon=horizon)
        return replace(plan(self.engines, self.settings, request), show=self._show)

    def _show(self, job: Any, answer: Answer) -> dict[str, Any]:
        """Return arrays, of which `table` makes columns."""
        return {name: answer.outputs[name][: self.wanted.horizon] for name in ("mean", "quantiles")}

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        assert self.manifest.forecast is not None
        arrow, levels = import_arrow(), [f"{level:g}" for level in self.manifest.forecast.quantiles]
        nothing = {"mean": np.full(1, np.nan), "quantiles": np.full((1, len(levels)), np.nan)}
        forecasts = [nothing if ERROR in result else result for result in results]
        counts = [len(forecast["mean"]) for forecast in forecasts]
        failed = np.repeat([ERROR in result for result in results], counts)
        places = arrow.array(np.repeat(np.arange(len(results)), counts))
        means, quantiles = (np.concatenate([each[name] for each in forecasts]) for name in ("mean", "quantiles"))

        def column(values: Array, kind: Any) -> Any:
            return arrow.array(values, kind, mask=failed)

        steps = np.concatenate([np.arange(1, count + 1) for count in counts])
        columns = {"step": column(steps, arrow.int32()), "mean": column(means, arrow.float64())}
        for name, level in name_bounds(levels).items():
            columns[name] = column(quantiles[:, levels.index(level)], arrow.float64())
        columns[ERROR] = arrow.array([result.get(ERROR) for result in results], arrow.string()).take(places)
        self._check_group([*columns])
        names = self._names(table).take(places)
        return arrow.Table.from_arrays([names, *columns.values()], names=[self.columns[0], *columns])


class _Labels(Planned):
    """Rows of an id are a sequence, in their order, that has a label."""

    def __init__(self, manifest: Manifest, wanted: Wanted) -> None:
        super().__init__(manifest, wanted)
        self._refuse("--column", "--keep", "--horizon", "--states")
        self._read_groups()

    def plan(self, contents: Sequence[Content]) -> Plan[Any]:
        return _plan_labels(self, contents)

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        return self._with_names(table, _from_rows(results, _label(self.manifest, self.wanted)))


class _Sessions(Called):
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

    def pieces(self, content: Content, most: int) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return super().pieces(content, most)
        ((member, steps),) = content.items()
        return [{member: steps[start : start + most]} for start in range(0, len(steps), most)]

    def table(self, table: Any, results: Sequence[Outcome]) -> Any:
        members = [("step", import_arrow().int64())]
        members += [(tensor.name, _cell(len(tensor.sizes))) for tensor in self.manifest.outputs]
        if self.wanted.states:
            members.append(("state", import_arrow().string()))
        rows = _from_rows([{**result, **result.get("outputs", {})} for result in results], members)
        return _beside(table, self.wanted.keep, rows) if self.group is None else self._with_names(table, rows)


def _plan_labels(work: Planned, members: Sequence[dict[str, Any]]) -> Plan[Any]:
    from service.endpoints.classify.endpoint import ClassifyItem, ClassifyRequest, plan

    items = [ClassifyItem.model_construct(**given) for given in members]
    name, scores = work.manifest.name, _shown_scores(work.wanted)
    request = ClassifyRequest.model_construct(model=name, items=items, scores=scores)
    return plan(work.engines, work.settings, request)


def _shown_scores(wanted: Wanted) -> str:
    return "all" if wanted.scores else "top"


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
