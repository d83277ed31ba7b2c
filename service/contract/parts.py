"""What a manifest declares beside its tensors: how text becomes ids, what a forecaster takes, what a signal is, how an
output becomes the next input, and how a session begins from a condition.

It knows pydantic and the standard library only. Invariant: a part that exists is consistent in itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from service.contract.provenance import Network, Sha256
from service.contract.tensors import FieldError, Part, Size, Tensor

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Quantile = Annotated[float, Field(gt=0, lt=1)]
Id = Annotated[int, Field(ge=0)]


class Characters(Part):
    """How a token's characters become ids beside the token's own.

    Of each token `width` characters are read as they stand in the text; a longer token gives its first `width // 2` and
    its last ones. The ids: 0 where a token has no more characters, 1 for a character that is not in `alphabet`, and
    from 2 on the characters of `alphabet`.
    """

    alphabet: str = Field(min_length=1)
    width: Size

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(set(self.alphabet)) < len(self.alphabet):
            raise FieldError("alphabet", "names a character twice")
        return self


class Text(Part):
    """How text becomes ids; `polarity` weighs the labels into one number from -1 to 1."""

    tokenizer: FileName
    sha256: Sha256
    max_length: Size
    unknown_token: str
    characters: Characters | None = None
    polarity: tuple[Annotated[float, Field(ge=-1, le=1)], ...] | None = None


class Forecast(Part):
    """What a forecasting model takes and gives. Units: numbers of values; quantiles as probabilities."""

    min_history: Size
    max_history: Size
    horizon: Size
    quantiles: tuple[Quantile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_history > self.max_history:
            raise ValueError(f"min_history {self.min_history} is above max_history {self.max_history}")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError("quantiles must rise strictly")
        return self


class Signal(Part):
    """A sequence of samples at a fixed rate, as many in a step as the input has features. Units: samples a second."""

    sample_rate: Size


class Feedback(Part):
    """How an output becomes the next input, so that a model can generate ids.

    The output named `output` has a number for each id, at each step; an id that is drawn from them is the next step.
    `start` is the id that a session takes first which has nothing else to begin with, `end` the id that ends a text.
    """

    kind: Literal["categorical"]
    output: str
    form: Literal["probabilities", "logits"]
    start: Id | None = None
    end: Id | None = None


POINT = 3  # offset to the right, offset upwards, end of stroke


class Mixture(Part):
    """How an output becomes the next input, so that a model can generate the points of a pen.

    The output named `output` has at each step the raw parameters of a mixture of `components` normal densities in two
    dimensions: the logit of the end of a stroke; then of each component the logit of its weight, the means of x and y,
    the logarithms of their deviations, and their correlation before the hyperbolic tangent. A point that is drawn from
    them (an offset to the right, one upwards, and 1 where the stroke ends) is the next step. `start` is the point that
    a session takes first which has nothing else to begin with. Where the output named `finished` has 0.5 or more after
    a point, that was the last.

    Source: Graves 2013, arXiv 1308.0850, equations 15 to 27.
    """

    kind: Literal["mixture"]
    output: str
    components: Size
    start: tuple[float, float, Annotated[float, Field(ge=0, le=1)]]
    finished: str | None = None

    @property
    def parameters(self) -> int:
        """The numbers that the output has at each step."""
        return 6 * self.components + 1


class _Kind(BaseModel):
    kind: Literal["categorical", "mixture"]


def _read_feedback(value: object) -> object:
    """Read what is declared as the kind that it says, so that errors are named by their members."""
    if isinstance(value, Part):
        return value
    mixture = isinstance(value, Mapping) and _Kind.model_validate(value).kind == "mixture"
    return (Mixture if mixture else Feedback).model_validate(value)


AnyFeedback = Annotated[Feedback | Mixture, BeforeValidator(_read_feedback)]
Number = float | int


def _number_or_numbers(value: object) -> object:
    given = value if isinstance(value, list | tuple) else [value]
    finite = [isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < math.inf for n in given]
    if not given or not all(finite):
        raise ValueError("must be one finite number, or a list of finite numbers")
    return value


Constant = Annotated[Number | tuple[Number, ...], BeforeValidator(_number_or_numbers)]


class Start(Part):
    """The start graph: a condition in, states out, with which a session begins.

    `states` names for inputs of states the outputs that they begin with; the other states begin with their own `start`.
    An output's axis `time` is a state's axis `memory`. What else is named is as in the manifest of any graph.
    """

    file: FileName
    sha256: Sha256
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    lengths: str | None = None
    constants: dict[str, Constant] = Field(default_factory=dict)
    text: Text | None = None
    states: dict[str, str] = Field(min_length=1)
    networks: tuple[Network, ...] = ()
