"""`export_module`: any PyTorch module becomes what Baton's own models are, a graph with lengths and states, published.

It knows the steps from a module to a directory, not how a module is called or traced. Invariant: nothing is written
unless parity held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from service.contract.manifest import Task
from service.contract.members import MODEL_NAME
from service.contract.parts import AnyFeedback, Forecast, Signal
from service.contract.provenance import Network
from training.export import parity
from training.export.explicit import cell_of
from training.export.foreign import ModuleError
from training.export.graph import Servable
from training.export.padding import padding_advice
from training.export.signature import call_of, servable_of
from training.publish.model_directory import PublishError, publish
from training.recipe import Release, TextReader

LIMITS = (
    "It was made elsewhere: Baton compared its answers with PyTorch's, and knows nothing of what they are worth.",
    "Each row is answered as the module answers it alone, at its true length. Where the module was trained on batches "
    "whose padding it did not mask, it may have learned from that padding.",
)
FROM_ELSEWHERE = partial(Release, description="", data=(), limits=LIMITS, measure=lambda url: ())


def export_module(
    module: nn.Module,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    name: str,
    lengths: str | None = None,
    states: Mapping[str, int | str] | None = None,
    time_axis: int | None = 1,
    outputs: Mapping[str, Sequence[str]] | None = None,
    text: TextReader | None = None,
    forecast: Forecast | None = None,
    signal: Signal | None = None,
    feedback: AnyFeedback | None = None,
    task: Literal["tag", "transform", "classify"] | None = None,
    description: str = "",
    licence: str = "not told",
    models_dir: Path = Path("models"),
    command: str = "training.export_module",
) -> Path:
    """Export a module, compare it with PyTorch, and publish it as the next version of `name`; return its directory.

    `example` holds the arguments of `forward`, by place or by name: a sequence, and what `lengths` and `states` name.
    `lengths` is the argument with each row's number of steps, if the module takes one. `states` are the arguments that
    are states, tensors or tuples of them, each with its place in what is returned; sessions begin with the example's.
    `time_axis` is the sequence's: 1, 0, or None where a call is one step. `outputs` names what else is returned, in
    order, each with the labels of its last axis, if it has any.

    Without a `task` the model is a `step` with `states`, with `text` otherwise a `sentiment`, with `forecast` a
    `forecast`, and without any of them a `tensor`. A model with a task streams where it has `states`.

    Raises: ModuleError, LayerError, ExportError, ParityError, PublishError or, where the service does not start on it,
    EvaluationError; nothing is then written.
    """
    if not MODEL_NAME.fullmatch(name):
        raise PublishError(f"name {name!r} must match {MODEL_NAME.pattern}")
    served_as = task or _task_of(states, text, forecast)
    call = call_of(module, example, lengths, states or {}, time_axis)
    networks = _networks(module, streams=bool(states))
    span = (forecast.min_history, forecast.max_history) if forecast else (1, text.max_length if text else None)
    servable = servable_of(module, call, outputs or {}, *span)
    with _naming_what_reads_padding(servable):
        described = description or f"{type(module).__name__}, a module of PyTorch's made elsewhere."
        made = FROM_ELSEWHERE(name=name, task=served_as, servable=servable, networks=networks, licence=licence)
        parts: dict[str, Any] = {"text": text, "forecast": forecast, "signal": signal, "feedback": feedback}
        release = replace(made, description=described, **parts)
        return publish(release, models_dir, command=command, max_bytes=None)


def _task_of(states: Mapping[str, Any] | None, text: TextReader | None, forecast: Forecast | None) -> Task:
    if forecast is not None and (states or text):
        raise PublishError("forecast goes with neither states nor text: a forecaster reads a whole history of values")
    return "step" if states else "forecast" if forecast else "sentiment" if text else "tensor"


@contextmanager
def _naming_what_reads_padding(servable: Servable) -> Iterator[None]:
    """Where rows depend on each other, add to ParityError's message what in the module makes them do so."""
    try:
        yield
    except parity.ParityError as failure:
        if not failure.beyond.keys() & {"ragged_vs_single", "junk_in_padding"}:
            raise
        raise PublishError(f"{failure}; {padding_advice(servable)}") from failure


def _networks(module: nn.Module, streams: bool) -> tuple[Network, ...]:
    """Return the facts of every recurrent layer of PyTorch's, in the order in which the module holds them.

    Raises: ModuleError for a layer that no stream can have.
    """
    layers = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.RNNBase)]
    if streams and (both := [path or type(layer).__name__ for path, layer in layers if layer.bidirectional]):
        raise ModuleError(
            f"{', '.join(both)} is bidirectional, and with states the model is a stream: a reverse direction begins at "
            "the end, which a stream does not have yet; leave states out, or use one direction"
        )
    return tuple(
        Network(
            cell=cell_of(path, layer),
            layers=layer.num_layers,
            hidden=layer.hidden_size,
            bidirectional=layer.bidirectional,
            variants=("relu",) if getattr(layer, "nonlinearity", "") == "relu" else (),
        )
        for path, layer in layers
    )
