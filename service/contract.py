"""The contract: what a model directory must declare before Baton serves it.

`models/<name>/<version>/` holds `manifest.json`, the ONNX file, and for text models a tokenizer. The service owns this
module; training validates what it publishes with the same code. It knows pydantic and the standard library only: the
graph itself is checked against the manifest by `service.graph`.

Invariant: a `Manifest` that exists is consistent in itself; what it says of files is true once `verify_files` returned.
"""

from __future__ import annotations

import hashlib
import math
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from service.errors import ManifestError
from service.tensors import LARGEST_FLOAT, FieldError, Part, Shape, Size, State, Tensor

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"

Task = Literal["sentiment", "forecast", "step"]
Arithmetic = Literal["float32", "float16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Variant = Literal["relu", "peepholes", "reset_before", "residual", "learned_start"]
Quantile = Annotated[float, Field(gt=0, lt=1)]
Number = float | int


def _number_or_numbers(value: object) -> object:
    given = value if isinstance(value, list | tuple) else [value]
    real = [isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < math.inf for one in given]
    if not given or not all(real):
        raise ValueError("must be one finite number, or a list of finite numbers")
    return value


Constant = Annotated[Number | tuple[Number, ...], BeforeValidator(_number_or_numbers)]


class Text(Part):
    """How text becomes ids; `polarity` weighs the labels into one number from -1 to 1."""

    tokenizer: FileName
    sha256: Sha256
    max_length: Size
    unknown_token: str
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


class Network(Part):
    """The recurrent stack, as facts for people and for the streaming check; `variants` are its departures from the
    plain one."""

    cell: Literal["rnn", "lstm", "gru"]
    layers: Size
    hidden: Size
    bidirectional: bool
    variants: tuple[Variant, ...] = ()


class Metric(Part):
    """A measured figure beside its floor: what the named trivial method reaches in the same run.

    `seeds` holds the same figure of each model that was trained with one of the provenance's seeds, in their order.
    """

    name: str
    value: float
    seeds: tuple[float, ...] | None = None
    floor: float | None = None
    floor_method: str | None = None


class DataSource(Part):
    name: str
    sha256: Sha256 | None = None
    part: str


class Provenance(Part):
    """Where the weights come from. Units: parity_max_abs is an absolute difference of output values.

    `seed` is that of these weights, None where they were made elsewhere; `seeds` those of all that were trained to tell
    how much a figure owes to the seed.
    """

    command: str
    seed: int | None = None
    seeds: tuple[int, ...] | None = None
    data: tuple[DataSource, ...]
    metrics: tuple[Metric, ...]
    parity_max_abs: float
    opset: int
    licence: str
    created: date
    tools: dict[str, str]

    @model_validator(mode="after")
    def _as_many_figures_as_seeds(self) -> Self:
        for index, metric in enumerate(self.metrics):
            if metric.seeds is not None and len(metric.seeds) != len(self.seeds or ()):
                told = f"has {len(metric.seeds)} figures for {len(self.seeds or ())} seeds; each seed has one"
                raise FieldError(f"metrics[{index}].seeds", told)
        return self


class Manifest(Part):
    """Everything that the service must know of one model version."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    version: str = Field(pattern=r"^[1-9][0-9]{0,8}$")
    task: Task
    description: str = ""
    file: FileName
    sha256: Sha256
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    lengths: str | None = None
    constants: dict[str, Constant] = Field(default_factory=dict)
    states: tuple[State, ...] = ()
    streamable: bool = False
    arithmetic: Arithmetic = "float32"
    text: Text | None = None
    forecast: Forecast | None = None
    networks: tuple[Network, ...] = ()
    provenance: Provenance | None = None

    @cached_property
    def sequence(self) -> Tensor:
        """The input that carries the rows; without a time axis the graph takes one step a run."""
        return self.inputs[0]

    @cached_property
    def features(self) -> int | None:
        """Values per step of the input, in C order; None where a step is one number or one id."""
        return math.prod(self.sequence.sizes) if self.sequence.sizes else None

    @cached_property
    def by_row(self) -> dict[str, Shape]:
        """The shapes of the inputs that are fed by row: all but the constants."""
        fed: dict[str, Shape] = {self.sequence.name: self.sequence.shape, **{s.input: s.shape for s in self.states}}
        return {**fed, self.lengths: ("batch",)} if self.lengths else fed

    @cached_property
    def state_bytes(self) -> int:
        return sum(state.row_bytes for state in self.states)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that stand for this name, version, weights, and all that gives a state its meaning."""
        members = {"name", "version", "sha256", "inputs", "lengths", "constants", "states", "text"}
        return hashlib.sha256(self.model_dump_json(include=members).encode()).digest()[:16]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_tensors()
        if self.streamable:
            self._check_streamable()
        getattr(self, f"_check_{self.task}")()
        if self.streamable != (self.task == "step"):
            raise FieldError("streamable", "must be true for task 'step', and for no other: only steps carry states")
        return self

    def _check_tensors(self) -> None:
        shape = list(self.sequence.shape)
        if self.text is not None and self.features not in (None, 1):
            raise FieldError("inputs[0].shape", f"is {shape}; with 'text' a step is one id, so there are no features")
        if self.text is not None and self.sequence.dtype in LARGEST_FLOAT:
            raise FieldError("inputs[0].dtype", f"is {self.sequence.dtype}; with 'text' it is int32 or int64 ids")
        given = [self.sequence.name, *self.constants, *(s.input for s in self.states)]
        given += [self.lengths] if self.lengths else []
        answers, carried = [t.name for t in self.outputs], [s.output for s in self.states]  # a state may be an answer
        for field, names in (("inputs", given), ("outputs", answers), ("states", carried)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise FieldError(field, f"{', '.join(twice)} is named more than once")

    def _check_streamable(self) -> None:
        if not self.states:
            raise FieldError("states", "a streamable model must name the states that a client carries")
        if any(network.bidirectional for network in self.networks):
            raise FieldError(
                "streamable",
                "must be false for a bidirectional network: its reverse direction starts at the end of the "
                "sequence, which a stream does not have yet; export one direction only",
            )

    def _check_step(self) -> None:
        for index, output in enumerate(self.outputs):
            if output.has_time != self.sequence.has_time:
                rule = "hold 'time', as the input does" if self.sequence.has_time else "hold no 'time', as the input"
                raise FieldError(f"outputs[{index}].shape", f"is {list(output.shape)}; it must {rule}")

    def _check_sentiment(self) -> None:
        if self.text is None:
            raise FieldError("text", "is missing; task 'sentiment' needs a tokenizer and a max_length")
        self._check_batch_first()
        (output, *more) = self.outputs
        if more or output.labels is None or output.dtype != "float32" or output.shape != ("batch", len(output.labels)):
            raise FieldError("outputs", "must be one float32 tensor [batch, labels] that names its labels")
        if self.text.polarity is not None and len(self.text.polarity) != len(output.labels):
            raise FieldError("text.polarity", f"has {len(self.text.polarity)} weights for {len(output.labels)} labels")

    def _check_forecast(self) -> None:
        if self.forecast is None:
            raise FieldError("forecast", "is missing; task 'forecast' needs history, horizon and quantiles")
        if self.sequence.dtype not in LARGEST_FLOAT:
            raise FieldError("inputs[0].dtype", f"must be {' or '.join(LARGEST_FLOAT)} for task 'forecast'")
        channels = self.sequence.sizes
        self._check_batch_first(*channels)
        mean = ("batch", self.forecast.horizon, *channels)
        expected = {"mean": mean, "quantiles": (*mean, len(self.forecast.quantiles))}
        if {output.name: output.shape for output in self.outputs} != expected:
            shapes = "; ".join(f"{name} {list(shape)}" for name, shape in expected.items())
            raise FieldError("outputs", f"must be {shapes}")

    def _check_batch_first(self, *sizes: int) -> None:
        if self.sequence.shape != ("batch", "time", *sizes) or len(sizes) > 1:
            due = "[batch, time] or [batch, time, channels]" if self.task == "forecast" else "[batch, time]"
            shape = list(self.sequence.shape)
            raise FieldError("inputs[0].shape", f"is {shape}; it must be {due} for task {self.task!r}")


def field_path(location: tuple[int | str, ...]) -> str:
    """Write a pydantic location the way a person would: `states[0].shape`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def read_manifest(directory: Path) -> Manifest:
    """Read and validate `directory/manifest.json`.

    Raises: ManifestError naming file and field, for a missing or malformed file, an unknown schema version, a broken
    rule, or a name or version that differs from the directory's.
    """
    file = directory / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise ManifestError(file, "file", "is missing; every model version needs one") from None
    except OSError as failure:
        raise ManifestError(file, "file", f"cannot be read: {failure.strerror}") from None
    except ValidationError as failure:
        raise _explain(file, failure) from None
    for field, told, found in (
        ("name", manifest.name, directory.parent.name),
        ("version", manifest.version, directory.name),
    ):
        if told != found:
            raise ManifestError(file, field, f"is {told!r}, but the directory is named {found!r}; they must agree")
    return manifest


def _explain(file: Path, failure: ValidationError) -> ManifestError:
    errors = failure.errors(include_url=False)
    versions = [error for error in errors if error["loc"] == ("schema_version",)]
    error = (versions or errors)[0]
    if versions and error["type"] != "missing":
        message = f"{error['input']!r} is not known here; this service reads schema version {SCHEMA_VERSION}"
        return ManifestError(file, "schema_version", message)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return ManifestError(file, field_path((*error["loc"], cause.field)), str(cause))
    return ManifestError(file, field_path(error["loc"]) or "file", error["msg"])


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Check that the files the manifest names exist and hash as declared.

    Raises: ManifestError naming the manifest, the field and the hash or file that would be right.
    """
    named = [("file", manifest.file, "sha256", manifest.sha256)]
    if manifest.text is not None:
        named.append(("text.tokenizer", manifest.text.tokenizer, "text.sha256", manifest.text.sha256))
    for field, name, hash_field, declared in named:
        path = directory / name
        if not path.is_file():
            raise ManifestError(directory / MANIFEST_FILE, field, f"{name} is missing from {directory}")
        try:
            found = sha256_of(path)
        except OSError as failure:
            raise ManifestError(
                directory / MANIFEST_FILE, field, f"{name} cannot be read: {failure.strerror}"
            ) from None
        if found != declared:
            raise ManifestError(directory / MANIFEST_FILE, hash_field, f"is {declared}, but {name} hashes to {found}")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
