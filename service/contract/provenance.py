"""Where a model comes from, as facts for people: its networks, its data, how it was made and how well it does.

It knows pydantic and the standard library only. Nothing here changes how a model is served. Invariant: a figure that is
told for each seed is told for all seeds.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.contract.tensors import FieldError, Part, Size

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Variant = Literal["relu", "peepholes", "reset_before", "residual", "learned_start"]


class Network(Part):
    """A recurrent stack, as facts for people and for the streaming check.

    `variants` are its departures from the plain cell.
    """

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
