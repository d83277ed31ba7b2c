"""The check of a model's behaviour before the first request, which no declaration can prove.

Two short rows run together, alone, and, with carried state, in chunks and as sessions that continue. It knows engines
and manifests, not requests. Invariant: a probed engine gives a row the same answer with any neighbours and, if it is
streamable, in any chunks, as nearly as its arithmetic can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

from service.contract.manifest import Manifest
from service.contract.members import Arithmetic
from service.contract.parts import Feedback, Mixture
from service.contract.tensors import Tensor
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import ManifestError
from service.model.onnx_session import Array, array_dtype, quoted

MORE_STEPS = 2  # than the fewest that a row may have: enough to see padding, batching and carried state
# Relative; far above what the arithmetic's rounding does (1e-6; 2e-4 where states are cut to float16; up to 0.025 on a
# sentiment model in int8, whose activations are scaled over the whole batch), far below what a reverse direction or a
# lost state does.
TOLERANCES: dict[Arithmetic, float] = {"float32": 1e-3, "float16": 1e-2, "int8": 5e-2}


def probe(engine: Engine) -> None:
    """Run the engine on small rows.

    Raises: ManifestError when it fails, when an output or state has another shape than declared, when padding or
    neighbours change an answer, when a streamable model's chunks differ from the whole, when probabilities are
    negative or do not sum to one, or when the graph does not take what generation feeds it.
    """
    manifest = engine.manifest
    rows = sample(engine, _lengths(manifest))
    tried = _twice if manifest.streamable else _answers
    together = tried(engine, rows)
    alone = [*chain(*zip(*(tried(engine, [row]) for row in rows), strict=True))]
    _check_neighbours(engine, gap(engine, together, alone))
    whole = together[: len(rows)]
    if manifest.streamable:
        _check_chunks(engine, gap(engine, whole, [_chunked(engine, row) for row in rows]))
    if manifest.sums_to_one:
        for index, output in enumerate(manifest.outputs):
            _check_shares(engine, whole, output.name, f"outputs[{index}]", "the graph must end in a softmax")
    if isinstance(manifest.feedback, Mixture):
        _check_mixture(engine, manifest.feedback, whole)
    elif manifest.feedback is not None:
        if manifest.feedback.form == "probabilities":
            _check_shares(engine, whole, manifest.feedback.output, "feedback.form", 'declare "logits"')
        _check_ids(engine, manifest.feedback)


def _lengths(manifest: Manifest) -> tuple[int, int]:
    """Return the lengths of two rows that can share a run: different ones where lengths may differ."""
    min_steps, max_steps = manifest.row_steps
    longest = min_steps + MORE_STEPS if max_steps is None else min(max_steps, min_steps + MORE_STEPS)
    if manifest.lengths is None and manifest.sequence.has_time:
        return longest, longest
    return longest, max(min_steps, longest - 1)


def _check_neighbours(engine: Engine, gap: float) -> None:
    """Raises: ManifestError when the rows of a run are too far from what each is alone."""
    manifest, file = engine.manifest, engine.model.file
    if gap <= TOLERANCES[manifest.arithmetic]:
        return
    message = f"a row's answer changes by {gap:.2g} (relative) with its neighbours in the batch; "
    if engine.model.session.dynamic_int8:
        raise ManifestError(file, "arithmetic", message + _int8(manifest.arithmetic))
    if manifest.lengths is None:
        message += "the graph must keep the rows of its batch axis apart; is it where 'batch' is declared?"
        raise ManifestError(file, "inputs[0].shape", message)
    message += "the graph must stop each row at its own length, or declare no lengths"
    raise ManifestError(file, "lengths", message)


def _check_chunks(engine: Engine, gap: float) -> None:
    """Raises: ManifestError when rows in chunks are too far from the same rows as a whole."""
    manifest, file = engine.manifest, engine.model.file
    if gap <= TOLERANCES[manifest.arithmetic]:
        return
    message = f"chunks with carried state differ by {gap:.2g} (relative) from the whole sequence"
    if engine.model.session.dynamic_int8:
        message += f"; {_int8(manifest.arithmetic)}; where the float32 graph differs as well, a state is missing"
        raise ManifestError(file, "arithmetic", message)
    message += (
        ", so the states do not carry everything: a reverse direction, or a state that is missing or paired "
        "wrongly; name every state, and use one direction only"
    )
    raise ManifestError(file, "streamable", message)


def _check_shares(engine: Engine, answers: list[Answer], output: str, field: str, advice: str) -> None:
    """Raises: ManifestError when the last axis of an output does not hold probabilities."""
    tolerance = TOLERANCES[engine.manifest.arithmetic]
    for answer in answers:
        made = answer.outputs[output]
        if not ((made >= -tolerance).all() and (np.abs(made.sum(axis=-1) - 1) <= tolerance).all()):
            message = f"the numbers of {output!r} are no probabilities: some are negative, or they do not sum to 1; "
            raise ManifestError(engine.model.file, field, message + advice)


def _check_ids(engine: Engine, feedback: Feedback) -> None:
    """Raises: ManifestError when the graph fails on an id that starts or ends a text, or on the last that is drawn."""
    manifest = engine.manifest
    (drawn_from,) = (output for output in manifest.outputs if output.name == feedback.output)
    last = drawn_from.sizes[0] - 1
    every = f"{feedback.output!r} has numbers for the ids 0 to {last}, each of which is fed when it is drawn; "
    for field, id, advice in (
        ("start", feedback.start, "give an id that it takes, or null"),
        ("end", feedback.end, "give an id that it takes, or null"),
        ("output", last, f"{every}name an output with a number for each id that the input takes"),
    ):
        if id is not None:
            _check_fed(engine, id, f"feedback.{field}", f"the graph fails on the id {id}: {advice}")


def _check_mixture(engine: Engine, mixture: Mixture, answers: list[Answer]) -> None:
    """Raises: ManifestError when the graph fails on the point to start with, or what says that the writing is finished
    is no probability."""
    start, name = mixture.start, mixture.finished
    _check_fed(engine, start, "feedback.start", f"the graph fails on the point {list(start)}: give one that it takes")
    if name is not None and not all(((a.outputs[name] >= 0) & (a.outputs[name] <= 1)).all() for a in answers):
        message = f"the numbers of {name!r} are no probabilities: some are below 0 or above 1; end it in a sigmoid"
        raise ManifestError(engine.model.file, "feedback.finished", message)


def _check_fed(engine: Engine, step: ArrayLike, field: str, message: str) -> None:
    """Raises: ManifestError with `message` when the graph fails on a step."""
    (row,) = sample(engine, [1])
    row.steps = np.broadcast_to(np.asarray(step, row.steps.dtype), row.steps.shape)
    (answer,) = engine.run([row])
    if isinstance(answer, Exception):
        raise ManifestError(engine.model.file, field, f"{message} {quoted(answer.__cause__ or answer)}")


def _int8(declared: Arithmetic) -> str:
    """Explain why a graph that quantises as it runs gives a row different answers, and what to do about it."""
    cause = "the graph scales activations to int8 over all that a run holds, every row and step of it"
    if declared != "int8":
        return f'{cause}, so declare "arithmetic": "int8", which allows {TOLERANCES["int8"]}'
    return (
        f"{cause}, and at most {TOLERANCES['int8']} is allowed; on processors without VNNI eight-bit weights saturate "
        "besides: quantise with reduce_range=True, leave the layers that matter most in float32, or serve the "
        "float32 graph"
    )


def sample(engine: Engine, lengths: Sequence[int], *, condition: int | None = None) -> list[Row]:
    """Return rows of `lengths` that the model can run, for trying it out.

    Where sessions begin from a condition, those of rows side by side differ in length, or all have `condition`.

    Of whole numbers it tries 0, 1 and a tokenizer's last id: which others a graph without a tokenizer takes is unknown.
    Texts are "0" and "1", which a graph that reads numbers takes as well.
    """
    manifest, rng = engine.manifest, np.random.default_rng(0)
    features = () if manifest.features is None else (manifest.features,)
    ids = [1, 0]
    if engine.model.vocabulary is not None:
        ids = [engine.model.vocabulary.last_id, *ids]  # finds an embedding that is too small
    rows = []
    for index, length in enumerate(lengths):
        turned = np.roll(ids, -index)  # so that the rows differ
        shapes = [(length, *each.sizes) if each.has_time else each.sizes for each in manifest.others]
        others = [_drawn(each, shape, rng, turned) for each, shape in zip(manifest.others, shapes, strict=True)]
        steps = _drawn(manifest.sequence, (length, *features), rng, turned)
        if manifest.text is not None and manifest.text.characters is not None:
            spelled = [len(manifest.text.characters.alphabet) + 1, 1, 0]  # the last of the alphabet, unknown, none
            steps[:, 1:] = np.resize(np.roll(spelled, -index), (length, manifest.text.characters.width))
        rows.append(Row(steps, others=tuple(others)))
    if engine.starter is not None:
        for row, answer in zip(rows, _conditions(engine.starter, len(rows), condition), strict=True):
            row.state = engine.begun(answer)
    return rows


def _conditions(starter: Engine, count: int, length: int | None) -> list[Answer]:
    """Return what the start graph makes of so many conditions, all of `length`, or each unlike those beside it."""
    if length is not None:
        return _answers(starter, sample(starter, [length] * count))
    fewest, most = starter.manifest.row_steps
    longest = fewest + MORE_STEPS if most is None else min(most, fewest + MORE_STEPS)
    lengths = [longest - index % (longest - fewest + 1) for index in range(count)]
    return [*chain(*(_answers(starter, [row]) for row in sample(starter, lengths)))]


def _drawn(tensor: Tensor, shape: tuple[int, ...], rng: np.random.Generator, ids: Array) -> Array:
    dtype = array_dtype(tensor.dtype)
    if dtype.kind == "f":
        return np.asarray(rng.normal(size=shape), dtype)
    values = np.resize(ids, shape)
    return (values.astype(str) if dtype.hasobject else values).astype(dtype)


def differ(engine: Engine, other: Engine) -> float:
    """Return how far two engines are apart on the same rows, from new sessions and from the states after these."""
    rows = sample(engine, _lengths(engine.manifest)[:1] * 2)
    return gap(engine, _twice(engine, rows), _twice(other, rows))


def _twice(engine: Engine, rows: list[Row]) -> list[Answer]:
    """Return the answers of new sessions, then of the same sessions a second time, when their states differ."""
    first = _answers(engine, rows)
    return first + _answers(engine, [replace(row, state=answer.state) for row, answer in zip(rows, first, strict=True)])


def _answers(engine: Engine, rows: list[Row]) -> list[Answer]:
    answers = engine.run(rows)
    for answer in answers:
        if isinstance(answer, Exception):
            cause = answer.__cause__ or answer
            if isinstance(cause, ManifestError):
                raise cause
            steps = ", ".join(str(len(row.steps)) for row in rows)
            message = f"the model fails on a short probe with rows of {steps} steps"
            raise ManifestError(engine.model.file, "file", f"{message} {quoted(cause)}")
    return [answer for answer in answers if isinstance(answer, Answer)]


def _chunked(engine: Engine, row: Row) -> Answer:
    first = _answers(engine, [Row(row.steps[:1], row.state)])[0]
    rest = _answers(engine, [Row(row.steps[1:], first.state)])[0]
    outputs = {name: np.concatenate([value, rest.outputs[name]]) for name, value in first.outputs.items()}
    return Answer(outputs, rest.state)


def gap(engine: Engine, ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """Return the largest difference between two lists of answers, relative to the size of the values."""
    largest = 0.0
    for pair in zip(ours, theirs, strict=True):
        made, due = [{**answer.outputs, **engine.layout.unpack(answer.state)} for answer in pair]
        for name, value in made.items():
            largest = max(largest, _apart(value, due[name]))
    return largest


@np.errstate(invalid="ignore")
def _apart(made: Array, due: Array) -> float:
    """Return the largest difference, relative to the size of the values; NaN equals NaN, and all texts are 1 apart."""
    if due.dtype.hasobject:
        return float((made != due).any())
    one, other = made.astype(np.float64), due.astype(np.float64)
    apart = np.where(one == other, 0, np.abs(one - other) / (1 + np.abs(other)))
    apart[np.isnan(one) & np.isnan(other)] = 0
    return float(np.max(np.nan_to_num(apart, nan=np.inf, posinf=np.inf), initial=0))
