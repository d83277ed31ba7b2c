"""What a foreign graph is drafted for: its task, and what that task answers with.

A graph with states is a `step` and one without a `tensor`, unless a person names the task or gives what only another
has; its form tells what else it could be. It knows interpretations of graphs and hints, not manifests. Invariant:
whatever a `Purpose` assumes is among its doubts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from service.contract.tensors import DTYPE_BYTES, LARGEST_FLOAT
from service.errors import ManifestError
from service.inspect.axes import takes_ids
from service.inspect.hints import Hints
from service.inspect.interpretation import Interpretation
from service.inspect.roles import Shape
from service.inspect.tokens import Tokens
from service.model.onnx_session import OnnxSession

OF_ONE_OUTPUT = ("tag", "transform", "classify")


@dataclass(frozen=True)
class Purpose:
    """A task, the interpretation that serves it, and how it generates where it can.

    `others` are tasks that the graph has the form of as well, each with the output that it would answer with.
    """

    task: str
    interpretation: Interpretation
    feedback: Mapping[str, str] | None
    tokens: Tokens | None
    others: Mapping[str, str]

    def doubts(self) -> Iterator[str]:
        """Yield what the graph does not tell about its task."""
        for task, output in self.others.items():
            yield f"task: it has the form of {task!r} as well: {_options(task, output, of_floats=self._of_floats)}"
        if self.feedback is not None:
            output = self.feedback["output"]
            yield (
                f"feedback: whether the numbers of {output} are those of the id that comes next; start, the id that a "
                "text begins with, and end, the id that ends it"
            )
        if self.tokens is not None:
            yield from self.tokens.doubts
        if self.task in OF_ONE_OUTPUT and self._of_floats:
            yield "signal: where a step is a sample or a frame of a signal, how many samples it has a second"

    @property
    def _of_floats(self) -> bool:
        return self.interpretation.roles.sequence.dtype in LARGEST_FLOAT


def find_purpose(
    file: Path,
    session: OnnxSession,
    interpretation: Interpretation,
    hints: Hints,
    tokens: Tokens | None,
    task: str | None,
) -> Purpose:
    """Return what the graph of `session`, loaded from `file`, is for: `task`, or with None what the hints speak for.

    Raises: ManifestError naming the option that the task needs.
    """
    dtypes = {node.name: node.dtype for node in (*session.inputs, *session.outputs)}
    fitting = _fitting(interpretation, dtypes)
    task = task or _unsaid(interpretation, fitting, hints)
    if task in OF_ONE_OUTPUT:
        outputs = interpretation.outputs
        labelled = [name for name in outputs if name in hints.labels]
        answer = (labelled or [fitting.get(task, outputs[0])])[0]
        interpretation = replace(interpretation, answer=answer)
        options = _options(task, answer, of_floats=interpretation.roles.sequence.dtype in LARGEST_FLOAT)
        if ("--labels" in options and not labelled) or ("--tokenizer" in options and tokens is None):
            raise ManifestError(file, "--task", f"task {task!r} needs more than the graph tells: {options}")
    feedback = _feedback(session, interpretation, hints, tokens, dtypes) if task == "step" else None
    others = {} if feedback is not None else {name: output for name, output in fitting.items() if name != task}
    return Purpose(task, interpretation, feedback, tokens, others)


def _options(task: str, output: str, *, of_floats: bool) -> str:
    """Return what `inspect` is to be told for a task of one output."""
    tokenizer = "" if of_floats else " --tokenizer FILE"
    return f"--task {task}" + ("" if task == "transform" else f"{tokenizer} --labels {output}=FIRST,SECOND")


def _fitting(interpretation: Interpretation, dtypes: Mapping[str, str]) -> dict[str, str]:
    """Return the tasks of one output that the graph has the form of, and the first output that each could answer with.

    Where the graph has several inputs there are none, and none where it takes a row of one step and carries nothing.
    """
    sequence, shape = interpretation.roles.sequence.name, interpretation.roles.sequence_shape
    dtype, found = dtypes[sequence], dict[str, str]()
    if len(interpretation.roles.inputs) > 1 or dtype not in DTYPE_BYTES or len(_sizes(shape)) > 1:
        return found
    if interpretation.plain and "time" not in shape:
        return found
    of_floats = dtype in LARGEST_FLOAT
    for name in interpretation.outputs:
        made = interpretation.made[name]
        by_step, sizes = "time" in made, _sizes(made)
        labelling = name in interpretation.distributions and dtypes[name] == "float32" and len(sizes) == 1
        if labelling and by_step and not of_floats:
            found.setdefault("tag", name)
        if by_step and of_floats and dtypes[name] == dtype and len(sizes) < 2:
            found.setdefault("transform", name)
        if labelling:
            found.setdefault("classify", name)
    return found


def _unsaid(interpretation: Interpretation, fitting: Mapping[str, str], hints: Hints) -> str:
    """Return the task where no person named it."""
    if not interpretation.plain:
        return "step"
    labelling = hints.tokenizer is not None or fitting.get("classify") in hints.labels
    return next((task for task in ("tag", "classify") if labelling and task in fitting), "tensor")


def _feedback(
    session: OnnxSession,
    interpretation: Interpretation,
    hints: Hints,
    tokens: Tokens | None,
    dtypes: Mapping[str, str],
) -> dict[str, str] | None:
    """Return how an output becomes the next input: where a step is one id, the one that has a number for each id."""
    roles = interpretation.roles
    if dtypes[roles.sequence.name] in LARGEST_FLOAT or _sizes(roles.sequence_shape):
        return None
    of_states = {name for pair in interpretation.pairs for name in pair}
    for name in interpretation.outputs:
        sizes = _sizes(interpretation.made[name])
        if name in of_states or len(sizes) != 1 or dtypes[name] not in LARGEST_FLOAT:
            continue
        (ids,) = sizes
        if (tokens is not None and tokens.ids == ids) or takes_ids(session, roles, hints, ids):
            form = "probabilities" if name in interpretation.distributions else "logits"
            return {"kind": "categorical", "output": name, "form": form}
    return None


def _sizes(shape: Shape) -> list[int]:
    return [axis for axis in shape if isinstance(axis, int)]
