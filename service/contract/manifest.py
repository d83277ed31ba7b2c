"""The manifest: everything that a model version declares before Baton serves it.

The service owns this module; training validates what it publishes with the same code. It knows pydantic and the
standard library only: `service.model.graph_check` checks the graph against the manifest. What runs a model reads the
facts that its manifest derives, and never asks for its task. Invariant: a `Manifest` that exists is consistent in
itself.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service.contract.members import RECENT, Members
from service.contract.parts import POINT, AnyFeedback, Feedback, Mixture, Start, Text
from service.contract.tasks import START, TASKS, TaskRules, any_of
from service.contract.tensors import LARGEST_FLOAT, FieldError, Tensor, fits


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise PydanticCustomError("unknown_task", "Input should be {tasks}", {"tasks": any_of(map(repr, TASKS))})
    return name


Task = Annotated[str, AfterValidator(_known_task), Field(json_schema_extra=lambda schema: schema.update(enum=[*TASKS]))]


class Manifest(Members):
    """Everything that the service must know of one model version."""

    task: Task

    @property
    def rules(self) -> TaskRules:
        """What the table of tasks says of this model's."""
        return TASKS[self.task]

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The tasks whose endpoints take this model, its own first."""
        more = [*self.rules.also]
        if self.streamable and self.task != "step":
            more.append("step")
        if self.feedback is not None:
            more.append("generate")
        return (self.task, *more)

    @cached_property
    def starter(self) -> Starter | None:
        """The start graph as a manifest of its own, by which it is loaded and run."""
        if self.start is None:
            return None
        shared = self.model_dump(include={"schema_version", "name", "version", "task", "arithmetic"})
        return Starter(**shared, **self.start.model_dump(exclude={"states"}))

    @property
    def adds_special_tokens(self) -> bool:
        """Whether texts come whole, so that the tokenizer marks where each begins and ends."""
        return self.rules.marks_texts and not self.streamable

    @property
    def needs_offsets(self) -> bool:
        """Whether the place of each token in its text must be known."""
        return self.text is not None and (self.rules.shows_tokens or self.text.characters is not None)

    @property
    def sums_to_one(self) -> bool:
        """Whether the values on the last axis of each output are probabilities, which sum to one."""
        return self.rules.sums_to_one

    @cached_property
    def finite(self) -> bool:
        """Whether NaN and infinity are refused, coming in and going out; else all values pass as they are."""
        return self.rules.finite

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_kinds()
        self._check_tensors()
        if self.text is not None:
            self._check_text(self.text)
        if self.rules.streamable not in (None, self.streamable):
            right = "true: steps carry states" if self.rules.streamable else "false: nothing is carried"
            raise FieldError("streamable", f"must be {right} (task {self.task!r})")
        if self.streamable:
            self._check_streamable()
        self.rules.check(self)
        if self.signal is not None:
            self._check_signal()
        if self.feedback is not None:
            self._check_feedback(self.feedback)
        self._check_memory()
        if self.start is not None:
            self._check_start(self.start)
        return self

    def _check_kinds(self) -> None:
        rules = self.rules
        if len(self.inputs) > 1 and not rules.several_inputs:
            able = " and ".join(repr(name) for name, others in TASKS.items() if others.several_inputs)
            message = f"are {len(self.inputs)}; task {self.task!r} takes one, and {able} several"
            raise FieldError("inputs", message)
        for field, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for index, tensor in enumerate(tensors):
                if tensor.dtype not in rules.dtypes:
                    message = f"is {tensor.dtype}; the tensors of task {self.task!r} are {any_of(rules.dtypes)}"
                    raise FieldError(f"{field}[{index}].dtype", message)
        for part in ("text", "forecast", "signal", "feedback", "start"):
            if getattr(self, part) is not None and part not in rules.parts:
                raise FieldError(part, f"must be left out; task {self.task!r} has none")

    def _check_tensors(self) -> None:
        given = [*(tensor.name for tensor in self.inputs), *self.constants, *(s.input for s in self.states)]
        given += [name for name in (self.lengths, self.memory_lengths) if name]
        answers = [t.name for t in self.outputs]
        carried = [s.output for s in self.states if s.output is not None]  # a state may be an answer
        for field, names in (("inputs", given), ("outputs", answers), ("states", carried)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise FieldError(field, f"{', '.join(twice)} is named more than once")

    def _check_text(self, text: Text) -> None:
        shape, characters = list(self.sequence.shape), text.characters
        if characters is not None and self.features != 1 + characters.width:
            message = f"is {shape}; with 'text.characters' a step is {1 + characters.width} ids: the token's, and "
            raise FieldError("inputs[0].shape", f"{message}{characters.width} of its characters")
        if characters is None and self.features not in (None, 1):
            raise FieldError("inputs[0].shape", f"is {shape}; with 'text' a step is one id, so there are no features")
        weights, labels = text.polarity, self.outputs[0].labels
        if weights is not None and labels is not None and len(weights) != len(labels):
            raise FieldError("text.polarity", f"has {len(weights)} weights for {len(labels)} labels")
        if self.sequence.dtype in LARGEST_FLOAT:
            raise FieldError("inputs[0].dtype", f"is {self.sequence.dtype}; with 'text' it is int32 or int64 ids")

    def _check_signal(self) -> None:
        if self.text is not None:
            raise FieldError("signal", "must be left out; a text is no signal")
        if self.sequence.dtype not in LARGEST_FLOAT or len(self.sequence.sizes) > 1:
            message = f"is {self.sequence.dtype} {list(self.sequence.shape)}; with 'signal' it is float, and a step is "
            raise FieldError("inputs[0].shape", f"{message}a sample or a frame of samples")

    def _check_feedback(self, feedback: AnyFeedback) -> None:
        found = {output.name: output for output in self.outputs}.get(feedback.output)
        if found is None or len(found.sizes) != 1 or found.has_memory or found.dtype not in LARGEST_FLOAT:
            numbers = "one float for each id" if isinstance(feedback, Feedback) else "the parameters of a mixture"
            raise FieldError("feedback.output", f"{feedback.output!r} is no output that has {numbers}, at each step")
        named = [state.input for state in self.states]
        if feedback.output in named:
            raise FieldError("feedback.output", f"{feedback.output!r} is the name of a state as well; rename the state")
        if self.text is not None and RECENT in (*named, feedback.output):
            message = f"the service keeps the last ids of a text as {RECENT!r}; rename the state or output of that name"
            raise FieldError("feedback", message)
        if isinstance(feedback, Mixture):
            self._check_mixture(feedback, found)
        else:
            self._check_ids(feedback, found)

    def _check_ids(self, feedback: Feedback, drawn_from: Tensor) -> None:
        if self.sequence.dtype in LARGEST_FLOAT or self.features not in (None, 1):
            message = (
                f"is {self.sequence.dtype} {list(self.sequence.shape)}; with 'feedback' a step is one int32 or int64 id"
            )
            raise FieldError("inputs[0]", message)
        if feedback.end is not None and feedback.end >= drawn_from.sizes[0]:
            message = f"is {feedback.end}; {feedback.output!r} has the ids 0 to {drawn_from.sizes[0] - 1}"
            raise FieldError("feedback.end", message)
        if feedback.start is not None and not fits(feedback.start, self.sequence.dtype):
            raise FieldError("feedback.start", f"is {feedback.start}, which is no {self.sequence.dtype}")

    def _check_mixture(self, mixture: Mixture, drawn_from: Tensor) -> None:
        if drawn_from.sizes != (mixture.parameters,):
            message = f"{mixture.components} of them have {mixture.parameters} parameters, 6 each and the end of the "
            raise FieldError("feedback.components", f"{message}stroke; {mixture.output!r} has {drawn_from.sizes[0]}")
        if self.sequence.dtype not in LARGEST_FLOAT or self.features != POINT:
            message = f"is {self.sequence.dtype} {list(self.sequence.shape)}; with a mixture a step is {POINT} floats: "
            raise FieldError("inputs[0]", f"{message}an offset to the right, one upwards, and whether the stroke ends")
        if not all(fits(number, self.sequence.dtype) for number in mixture.start):
            raise FieldError("feedback.start", f"{list(mixture.start)} has a number that is no {self.sequence.dtype}")
        if mixture.finished is None:
            return
        found = {output.name: output for output in self.outputs}.get(mixture.finished)
        if found is None or found.sizes not in ((), (1,)) or found.has_memory or found.dtype not in LARGEST_FLOAT:
            raise FieldError("feedback.finished", f"{mixture.finished!r} is no output that has one float at each step")

    def _check_streamable(self) -> None:
        if not self.states:
            raise FieldError("states", "a streamable model must name the states that a client carries")
        if any(network.bidirectional for network in self.networks):
            raise FieldError(
                "streamable",
                "must be false for a bidirectional network: its reverse direction starts at the end of the "
                "sequence, which a stream does not have yet; export one direction only",
            )
        timed = self.sequence.has_time
        for index, output in enumerate(self.outputs):
            if output.has_time != timed:
                rule = "hold 'time', as the input does" if timed else "hold no 'time', as the input"
                raise FieldError(f"outputs[{index}].shape", f"is {list(output.shape)}; it must {rule}")

    def _check_memory(self) -> None:
        begun = {} if self.start is None else self.start.states
        for index, state in enumerate(self.states):
            if state.input not in begun and (state.ragged or state.output is None):
                lacks = "has an axis 'memory'" if state.ragged else "has no 'output'"
                raise FieldError(f"states[{index}]", f"{lacks}, so 'start.states' must say what it begins with")
        ragged = any(state.ragged for state in self.states)
        if self.memory_lengths is not None and not ragged:
            raise FieldError("memory_lengths", "must be left out; no state has an axis 'memory'")
        for field, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for index, tensor in enumerate(tensors):
                if tensor.has_memory and (field == "inputs" or not ragged):
                    rule = "'memory' is an axis of states, and of outputs beside them"
                    raise FieldError(f"{field}[{index}].shape", f"is {list(tensor.shape)}; {rule}")

    def _check_start(self, start: Start) -> None:
        try:
            starter = self.starter
        except ValidationError as failure:
            error = failure.errors(include_url=False)[0]
            cause = error.get("ctx", {}).get("error")
            field, message = (cause.field, str(cause)) if isinstance(cause, FieldError) else ("", error["msg"])
            raise FieldError(f"start.{field}" if field else "start", message) from None
        assert starter is not None
        states, made = {s.input: s for s in self.states}, {output.name: output for output in starter.outputs}
        for name, output in start.states.items():
            field = f"start.states.{name}"
            if name not in states:
                raise FieldError(field, f"is no state; the states are {', '.join(states)}")
            if output not in made:
                raise FieldError(field, f"{output!r} is no output of the start graph; it has {', '.join(made)}")
            state, found = states[name], made[output]
            due = tuple("time" if axis == "memory" else axis for axis in state.shape)
            if (found.dtype, found.shape) != (state.dtype, due):
                has = f"is {found.dtype} {list(found.shape)}"
                raise FieldError(field, f"{output!r} {has}; the state takes {state.dtype} {list(due)}")
            if state.start != 0:
                raise FieldError(field, f"{name!r} has a 'start' of its own; leave out the state's, or this")


class Starter(Manifest):
    """A start graph as a manifest: its outputs are what states begin with."""

    @property
    def rules(self) -> TaskRules:
        return START
