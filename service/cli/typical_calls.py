"""A typical call of each task, made from the facts that `GET /v1/models/{name}` gives of a model.

It knows the bodies of requests, not how they are sent. Invariant: what a call sends is the same each time, but for the
tokens of sessions, which come from the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from service.errors import CommandError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Body = dict[str, Any]
Facts = dict[str, Any]
Bodies = Generator[Body, Body | None, None]

SEED = 0
SERIES_VALUES, SEASON, HORIZON = 168, 24, 24  # a week of hours, and the next day
TENSOR_STEPS = 16
CONDITION = "weather"  # a word, which any model that reads texts can begin from
STEPS_IN_ROTATION = 64
TEXTS = (
    "A warm, funny film.",
    "I don't see the point of it.",
    "It starts out slow and clumsy, but it grows into something wonderful.",
    "The cast does what it can with a script that has nothing to say and takes two hours to say it.",
    "Rarely has so much money been spent on so little story.",
    "She plays the mother with such restraint that the one scene in which she raises her voice stays with you.",
    "An honest, unsentimental portrait of a town that the railway forgot.",
    "Not bad, not good, and forgotten by the time you have found your car.",
)


@dataclass(frozen=True)
class Call:
    """Where requests go, the member of a body that holds its items, and the bodies of one connection.

    What is sent into the bodies is the answer to the one before, or None where that failed. Without `items` a request
    stands or falls as a whole.
    """

    path: str
    items: str | None
    bodies: Callable[[], Bodies]

    def with_bodies(self, bodies: list[Body]) -> Call:
        """Return the call with `bodies` in turn."""
        return replace(self, bodies=_in_turn(bodies))

    def count(self, body: Body) -> int:
        """Return how many items are in a body."""
        return len(body[self.items]) if self.items else 1


def call_for(facts: Facts) -> Call:
    """Return the typical call of a model.

    Raises: CommandError for a task that has no typical call.
    """
    if facts["task"] not in _TASKS:
        raise CommandError(f"{facts['name']} has the task {facts['task']}; there are calls for {', '.join(_TASKS)}")
    path, items, typical = _TASKS[facts["task"]]
    return Call(path.format(name=facts["name"]), items, typical(facts))


def _in_turn(bodies: Iterable[Body]) -> Callable[[], Bodies]:
    """Let all connections take the next of the same rotation, or they would send like lengths together."""
    rotation = cycle(bodies)

    def taken() -> Bodies:
        for body in rotation:  # noqa: UP028 - what is sent in, the rotation would not take
            yield body

    return taken


def _texts(facts: Facts) -> Callable[[], Bodies]:
    return _in_turn([{"model": facts["name"], "inputs": [text]} for text in TEXTS])


def _series(facts: Facts) -> Callable[[], Bodies]:
    reads = facts["forecast"]
    count = min(max(SERIES_VALUES, reads["min_history"]), reads["max_history"])
    channels = _sizes(facts["inputs"][0])
    rng, hours = np.random.default_rng(SEED), np.arange(count)
    daily = (100 + 10 * np.sin(2 * np.pi * hours / SEASON)).reshape(count, *(1 for _ in channels))
    values = (daily + rng.normal(size=(count, *channels))).round(2).tolist()
    horizon = min(HORIZON, reads["horizon"])
    return _in_turn([{"model": facts["name"], "horizon": horizon, "series": [{"values": values}]}])


def _items(facts: Facts) -> Callable[[], Bodies]:
    """Send a text, or as many samples or rows as a plain model's steps, an item a call."""
    if facts["text"] is not None:
        return _in_turn([{"model": facts["name"], "items": [{"text": text}]} for text in TEXTS])
    (taken,) = facts["inputs"]
    return _in_turn([{"model": facts["name"], "items": [_sequence(taken, flat=facts["signal"] is not None)]}])


def _sequence(taken: Facts, *, flat: bool = False) -> Body:
    """Return the member that holds as many steps as a plain model's: values, or rows where a step has several."""
    steps = _numbers(np.random.default_rng(SEED), taken["dtype"], [TENSOR_STEPS, *_sizes(taken)])
    if flat or steps.ndim == 1:
        return {"values": steps.ravel().tolist()}
    return {"inputs": steps.reshape(TENSOR_STEPS, -1).tolist()}


def _sessions(facts: Facts) -> Callable[[], Bodies]:
    """Let each connection step through a session of its own, a step a call."""
    return lambda: _session(facts)


def _session(facts: Facts) -> Bodies:
    begun = {} if facts["start"] is None else {"begin": _condition(facts["start"])}
    state = begun
    for step in cycle(_steps(facts)):
        answer = yield {"model": facts["name"], "items": [{**state, **step}]}
        state = begun if answer is None else {"state": answer["results"][0]["state"]}


def _condition(start: Facts) -> Body:
    """Return what a start graph reads: a text, a vector, or steps."""
    if start["text"] is not None:
        return {"text": CONDITION}
    (taken,) = start["inputs"]
    if "time" in taken["shape"]:
        return _sequence(taken)
    return {"vector": _numbers(np.random.default_rng(SEED), taken["dtype"], [*_sizes(taken)]).ravel().tolist()}


def _steps(facts: Facts) -> Iterator[Body]:
    if facts["text"] is not None:
        words = chain.from_iterable(text.split() for text in TEXTS)
        return ({"text": word} for word in islice(words, STEPS_IN_ROTATION))
    (taken,) = facts["inputs"]
    rng = np.random.default_rng(SEED)
    rows = _numbers(rng, taken["dtype"], [STEPS_IN_ROTATION, *_sizes(taken)]).reshape(STEPS_IN_ROTATION, 1, -1)
    return ({"inputs": row} for row in rows.tolist())


def _tensors(facts: Facts) -> Callable[[], Bodies]:
    """Ask for one row over /v2, every input of which is as the model declares it."""
    from service.endpoints.v2.tensors import DATATYPES

    rng, free, inputs = np.random.default_rng(SEED), {"batch": 1, "time": TENSOR_STEPS}, []
    for tensor in facts["inputs"]:
        shape = [free.get(size, size) for size in tensor["shape"]]
        data = _numbers(rng, tensor["dtype"], shape).ravel().tolist()
        inputs.append({"name": tensor["name"], "shape": shape, "datatype": DATATYPES[tensor["dtype"]], "data": data})
    return _in_turn([{"inputs": inputs}])


def _sizes(tensor: Facts) -> list[int]:
    return [size for size in tensor["shape"] if size not in ("batch", "time")]


def _numbers(rng: np.random.Generator, dtype: str, shape: list[int]) -> NDArray[Any]:
    """Return values that any model takes: small numbers, ones where it takes ids, one letter where it takes texts."""
    if dtype.startswith("float"):
        return rng.normal(size=shape).round(4)
    return np.full(shape, {"bool": True, "string": "a"}.get(dtype, 1))


_TASKS: dict[str, tuple[str, str | None, Callable[[Facts], Callable[[], Bodies]]]] = {
    "sentiment": ("/v1/sentiment", "inputs", _texts),
    "forecast": ("/v1/forecast", "series", _series),
    "step": ("/v1/step", "items", _sessions),
    "tensor": ("/v2/models/{name}/infer", None, _tensors),
    "tag": ("/v1/tag", "inputs", _texts),
    "translate": ("/v1/translate", "inputs", _texts),
    "transform": ("/v1/transform", "items", _items),
    "classify": ("/v1/classify", "items", _items),
}
