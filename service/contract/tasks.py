"""The table of tasks: what each demands of its manifests, and which facts hold of all of them.

It stands in the contract because training, which knows nothing else of the service, validates with it. It knows
the members of manifests, not graphs and not endpoints. Invariant: a manifest that passed the check of its task has what
the endpoint of that task needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from service.contract.members import Members
from service.contract.parts import Feedback
from service.contract.tensors import DTYPE_BYTES, LARGEST_FLOAT, FieldError, Tensor, TensorDtype


@dataclass(frozen=True)
class TaskRules:
    """What a task demands of its manifests beside what every manifest must hold.

    `check` raises FieldError for a manifest that breaks a rule of the task's own. `parts` are the members that only
    some tasks have. `dtypes` are those that inputs and outputs may have. `streamable` says whether clients carry the
    states, None where that is for each model to say. `also` are the other tasks whose endpoints take the task's models.
    `sums_to_one`, `finite`, `marks_texts` and `shows_tokens` are facts of every manifest of the task: its outputs are
    probabilities; NaN and infinity are refused; the tokenizer marks where a text begins and ends; answers say where in
    its text a token stands.
    """

    check: Callable[[Members], None]
    parts: tuple[str, ...] = ()
    streamable: bool | None = False
    also: tuple[str, ...] = ()
    sums_to_one: bool = False
    finite: bool = True
    marks_texts: bool = True
    shows_tokens: bool = False
    several_inputs: bool = False
    dtypes: tuple[str, ...] = tuple(DTYPE_BYTES)


def any_of(names: Iterable[str]) -> str:
    """Return `names` as a choice, in words."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


def _no_more(manifest: Members) -> None:
    """Ask for nothing that is not asked of every model."""


def _check_sentiment(manifest: Members) -> None:
    if manifest.text is None:
        raise FieldError("text", "is missing; task 'sentiment' needs a tokenizer and a max_length")
    _check_batch_first(manifest, "[batch, time]")
    (output, *more) = manifest.outputs
    if more or output.labels is None or output.dtype != "float32" or output.shape != ("batch", len(output.labels)):
        raise FieldError("outputs", "must be one float32 tensor [batch, labels] that names its labels")


def _check_forecast(manifest: Members) -> None:
    if manifest.forecast is None:
        raise FieldError("forecast", "is missing; task 'forecast' needs history, horizon and quantiles")
    if manifest.sequence.dtype not in LARGEST_FLOAT:
        raise FieldError("inputs[0].dtype", f"must be {' or '.join(LARGEST_FLOAT)} for task 'forecast'")
    channels = manifest.sequence.sizes
    _check_batch_first(manifest, "[batch, time] or [batch, time, channels]", *channels[:1])
    mean = ("batch", manifest.forecast.horizon, *channels)
    expected = {"mean": mean, "quantiles": (*mean, len(manifest.forecast.quantiles))}
    if {output.name: output.shape for output in manifest.outputs} != expected:
        shapes = "; ".join(f"{name} {list(shape)}" for name, shape in expected.items())
        raise FieldError("outputs", f"must be {shapes}")


def _check_tensor(manifest: Members) -> None:
    if manifest.states:
        message = "must be left out; with task 'tensor' nothing is carried: name them among inputs and outputs"
        raise FieldError("states", message)
    if manifest.sequence.has_time:
        return
    if manifest.lengths is not None:
        raise FieldError("lengths", "must be left out; no input has a 'time' axis that could be of unequal length")
    for index, output in enumerate(manifest.outputs):
        if output.has_time:
            message = f"is {list(output.shape)}; no input has 'time', so it must hold none"
            raise FieldError(f"outputs[{index}].shape", message)


def _check_tag(manifest: Members) -> None:
    if manifest.text is None:
        raise FieldError("text", "is missing; task 'tag' needs a tokenizer and a max_length")
    if not _labelled(manifest.outputs) or not manifest.outputs[0].has_time:
        raise FieldError("outputs", "must be one float32 tensor [batch, time, labels] that names its labels")
    _check_unweighed(manifest)
    _check_time(manifest)


def _check_classify(manifest: Members) -> None:
    if not _labelled(manifest.outputs):
        message = "must be one float32 tensor, [batch, labels] or [batch, time, labels], that names its labels"
        raise FieldError("outputs", message)
    if manifest.text is None and manifest.sequence.dtype not in LARGEST_FLOAT:
        message = f"is {manifest.sequence.dtype}; without 'text' it is {any_of(LARGEST_FLOAT)} for task 'classify'"
        raise FieldError("inputs[0].dtype", message)
    _check_unweighed(manifest)
    if not manifest.streamable:
        _check_time(manifest)


def _check_unweighed(manifest: Members) -> None:
    if manifest.text is not None and manifest.text.polarity is not None:
        raise FieldError("text.polarity", f"must be left out; answers of task {manifest.task!r} have none")


def _check_time(manifest: Members) -> None:
    """Refuse a graph that takes one step a run: of a longer row only the last would count."""
    if not manifest.sequence.has_time:
        message = f"is {list(manifest.sequence.shape)}; for task {manifest.task!r} it must hold 'time'"
        raise FieldError("inputs[0].shape", f"{message}, so that a row has all its steps in one run")


def _check_transform(manifest: Members) -> None:
    sequence, (output, *more) = manifest.sequence, manifest.outputs
    if more or not output.has_time or output.dtype != sequence.dtype or len(output.sizes) > 1:
        message = "must be one tensor [batch, time] or [batch, time, values], of the input's dtype"
        raise FieldError("outputs", message)
    if sequence.dtype not in LARGEST_FLOAT or not sequence.has_time or len(sequence.sizes) > 1:
        message = f"is {sequence.dtype} {list(sequence.shape)}; for task 'transform' it is {any_of(LARGEST_FLOAT)}, "
        raise FieldError("inputs[0].shape", f"{message}[batch, time] or [batch, time, values]")
    if manifest.signal is not None and output.sizes != sequence.sizes:
        message = f"is {list(output.shape)}; of a signal as many samples come out of a step as go in"
        raise FieldError("outputs[0].shape", message)


def _check_translate(manifest: Members) -> None:
    feedback, start = manifest.feedback, manifest.start
    if manifest.text is None or start is None or start.text is None:
        what = "text" if manifest.text is None else "start" if start is None else "start.text"
        raise FieldError(what, "is missing; task 'translate' needs a tokenizer on both sides of a start graph")
    if not isinstance(feedback, Feedback) or feedback.start is None or feedback.end is None:
        message = "must be there, with the ids that start and end a text, for task 'translate'"
        raise FieldError("feedback", message)


def _labelled(outputs: tuple[Tensor, ...]) -> bool:
    """Return whether there is one output, of a float32 for each of its labels."""
    output, *more = outputs
    labels = output.labels
    return not more and labels is not None and output.dtype == "float32" and output.sizes == (len(labels),)


def _check_batch_first(manifest: Members, shapes: str, *sizes: int) -> None:
    shape = manifest.sequence.shape
    if shape != ("batch", "time", *sizes):
        raise FieldError("inputs[0].shape", f"is {list(shape)}; it must be {shapes} for task {manifest.task!r}")


TASKS: Mapping[str, TaskRules] = {
    "sentiment": TaskRules(_check_sentiment, ("text",), also=("classify",), sums_to_one=True),
    "forecast": TaskRules(_check_forecast, ("forecast",)),
    "step": TaskRules(_no_more, ("text", "signal", "feedback", "start"), streamable=True),
    "tensor": TaskRules(_check_tensor, finite=False, several_inputs=True, dtypes=get_args(TensorDtype)),
    "tag": TaskRules(_check_tag, ("text",), streamable=None, sums_to_one=True, marks_texts=False, shows_tokens=True),
    "transform": TaskRules(_check_transform, ("signal",), streamable=None),
    "classify": TaskRules(_check_classify, ("text", "signal"), streamable=None, sums_to_one=True),
    "translate": TaskRules(_check_translate, ("text", "feedback", "start"), streamable=True),
}
START = TaskRules(_no_more, ("text",))  # of every start graph, whatever the model's task
