"""The contract: what a model directory must declare before Baton serves it.

`models/<name>/<version>/` holds `manifest.json`, the ONNX file, and for text models a tokenizer. The service owns this
module; training validates what it publishes with the same code. It knows pydantic and the standard library only: the
graph itself is checked against the manifest by `service.runtime`.

Invariant: a `Manifest` that exists is consistent in itself; what it says of files is true once `verify_files` returned.
"""

from __future__ import annotations

import hashlib
import math
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ManifestError

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
DTYPE_BYTES = {"float32": 4, "int32": 4, "int64": 8}

Task = Literal["sentiment", "forecast", "step"]
Dtype = Literal["float32", "int32", "int64"]
Size = Annotated[int, Field(ge=1)]
Axis = Literal["batch", "time"]
Shape = tuple[Size | Axis, ...]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Quantile = Annotated[float, Field(gt=0, lt=1)]


class Part(BaseModel):
    """A part of the manifest: immutable, unknown members refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Tensor(Part):
    """An input or output of the graph; `labels` names the entries of its last axis."""

    name: str = Field(min_length=1)
    dtype: Dtype
    shape: Shape
    labels: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if self.labels is not None and (not self.shape or self.shape[-1] != len(self.labels)):
            raise ValueError(f"{len(self.labels)} labels do not fit the last axis of shape {list(self.shape)}")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must differ")
        return self


class State(Part):
    """A pair of tensors that carries state from one run to the next; a new session starts at zeros."""

    input: str = Field(min_length=1)
    output: str = Field(min_length=1)
    dtype: Dtype
    shape: Shape

    @model_validator(mode="after")
    def _one_batch_axis(self) -> Self:
        if self.shape.count("batch") != 1 or "time" in self.shape:
            raise ValueError(f"shape {list(self.shape)} must hold 'batch' exactly once and no 'time'")
        return self

    @cached_property
    def batch_axis(self) -> int:
        return self.shape.index("batch")

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one session's state: the batch axis left out."""
        return tuple(size for size in self.shape if isinstance(size, int))

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * DTYPE_BYTES[self.dtype]


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
    """The recurrent stack, as facts for people and for the streaming check."""

    cell: Literal["rnn", "lstm", "gru"]
    layers: Size
    hidden: Size
    bidirectional: bool


class Metric(Part):
    """A measured figure beside its floor: what the named trivial method reaches in the same run."""

    name: str
    value: float
    floor: float | None = None
    floor_method: str | None = None


class DataSource(Part):
    name: str
    sha256: Sha256 | None = None
    part: str


class Provenance(Part):
    """Where the weights come from. Units: parity_max_abs is an absolute difference of output values."""

    command: str
    seed: int
    data: tuple[DataSource, ...]
    metrics: tuple[Metric, ...]
    parity_max_abs: float
    opset: int
    licence: str
    created: date
    tools: dict[str, str]


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
    constants: dict[str, float | int] = {}
    states: tuple[State, ...] = ()
    streamable: bool = False
    text: Text | None = None
    forecast: Forecast | None = None
    network: Network | None = None
    provenance: Provenance | None = None

    @cached_property
    def sequence(self) -> Tensor:
        """The input that carries the rows, `[batch, time]` or `[batch, time, features]`."""
        return self.inputs[0]

    @cached_property
    def features(self) -> int | None:
        """Values per step of the input; None where a step is one number or one id."""
        size = self.sequence.shape[2] if len(self.sequence.shape) == 3 else None
        return size if isinstance(size, int) else None

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
        if (self.text is None) != (self.sequence.dtype == "float32"):
            message = f"is {self.sequence.dtype}; with 'text' it is int32 or int64 ids, without it float32"
            raise _FieldError("inputs[0].dtype", message)
        return self

    def _check_tensors(self) -> None:
        shape = self.sequence.shape
        if shape[:2] != ("batch", "time") or len(shape) > 3 or not all(isinstance(s, int) for s in shape[2:]):
            raise _FieldError(
                "inputs[0].shape", f"is {list(shape)}; it must be [batch, time] or [batch, time, features]"
            )
        given = [self.sequence.name, *self.constants, *(s.input for s in self.states)]
        given += [self.lengths] if self.lengths else []
        made = [*(t.name for t in self.outputs), *(s.output for s in self.states)]
        for field, names in (("inputs", given), ("outputs", made)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise _FieldError(field, f"{', '.join(twice)} is named more than once")
        for index, output in enumerate(self.outputs):
            if output.shape[:1] != ("batch",) or "batch" in output.shape[1:] or "time" in output.shape[2:]:
                raise _FieldError(f"outputs[{index}].shape", f"is {list(output.shape)}; it must begin with batch")

    def _check_streamable(self) -> None:
        if not self.states:
            raise _FieldError("states", "a streamable model must name the states that a client carries")
        if self.network is not None and self.network.bidirectional:
            raise _FieldError(
                "streamable",
                "must be false for a bidirectional network: its reverse direction starts at the end of the "
                "sequence, which a stream does not have yet; export one direction only",
            )

    def _check_step(self) -> None:
        if not self.streamable:
            raise _FieldError("streamable", "must be true for task 'step'")
        for index, output in enumerate(self.outputs):
            if output.shape[:2] != ("batch", "time"):
                raise _FieldError(f"outputs[{index}].shape", f"is {list(output.shape)}; it must begin with batch, time")

    def _check_sentiment(self) -> None:
        if self.text is None:
            raise _FieldError("text", "is missing; task 'sentiment' needs a tokenizer and a max_length")
        (output, *more) = self.outputs
        if more or output.labels is None or output.dtype != "float32" or len(output.shape) != 2:
            raise _FieldError("outputs", "must be one float32 tensor [batch, labels] that names its labels")
        if self.text.polarity is not None and len(self.text.polarity) != len(output.labels):
            raise _FieldError("text.polarity", f"has {len(self.text.polarity)} weights for {len(output.labels)} labels")

    def _check_forecast(self) -> None:
        if self.forecast is None:
            raise _FieldError("forecast", "is missing; task 'forecast' needs history, horizon and quantiles")
        if self.sequence.dtype != "float32" or self.features is not None:
            raise _FieldError("inputs[0]", "must be float32 [batch, time] for task 'forecast'")
        horizon = self.forecast.horizon
        expected = {
            "mean": ("batch", horizon),
            "quantiles": ("batch", horizon, len(self.forecast.quantiles)),
        }
        if {output.name: output.shape for output in self.outputs} != expected:
            shapes = "; ".join(f"{name} {list(shape)}" for name, shape in expected.items())
            raise _FieldError("outputs", f"must be {shapes}")


class _FieldError(ValueError):
    """A broken rule between members, with the member it is about."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


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
    if isinstance(cause, _FieldError):
        return ManifestError(file, cause.field, str(cause))
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
        found = sha256_of(path)
        if found != declared:
            raise ManifestError(directory / MANIFEST_FILE, hash_field, f"is {declared}, but {name} hashes to {found}")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
