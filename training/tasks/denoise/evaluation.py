"""The denoisers' figures beside those of the best classical filter, on the test part.

It knows the parts, the filters, and how to ask a running service for a whole signal; what serves there it does not.
Two minutes of each record are mixed with each kind of noise at each ratio. The figure of several is the mean
of their output ratios.

Invariant: a figure and its floor come from the same cases in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from service.contract.provenance import Metric
from training.evaluate import ask
from training.tasks.denoise.data import KINDS, MINUTE, RATIOS, Case, Values, cases, output_ratio, read_part
from training.tasks.denoise.filters import Tuned, tuned

TUNED_RECORDS = 6  # every so many records of the training part, a minute of each
TEST_SAMPLES = 2 * MINUTE

Denoiser = Callable[[Values], Values]  # from a noisy signal to the clean one, both [samples] in millivolts


def ask_denoise(url: str, model: str, noisy: Values) -> Values:
    """Denoise by `POST /v1/transform`. Shapes: as `Denoiser`."""
    (result,) = ask(url, "/v1/transform", "items", [{"values": noisy.tolist()}], model=model)
    return np.array(result["outputs"])


@cache
def tuned_filters() -> tuple[Tuned, ...]:
    """Return the classical filters, tuned on the training part. Raises: DataError."""
    train = read_part("train")
    some = replace(train, records=dict(list(train.records.items())[::TUNED_RECORDS]))
    return tuned(list(cases(some, MINUTE)))


def output_ratios(measured: Sequence[Case], denoise: Denoiser) -> Values:
    """Return the output ratio of each case. Units: dB."""
    return np.array([output_ratio(case.clean, denoise(case.noisy)) for case in measured])


def figures(measured: Sequence[Case], denoise: Denoiser, filters: Sequence[Tuned]) -> tuple[Metric, ...]:
    """Return the mean output ratio of all cases, and by input ratio and kind of noise, beside the best filter's."""
    own = output_ratios(measured, denoise)
    reached = {each.name: output_ratios(measured, each.apply) for each in filters}
    best = max(reached, key=lambda name: reached[name].mean())
    others = "; ".join(f"{name}: {ratios.mean():.2f}" for name, ratios in reached.items() if name != best)
    groups = {"": np.ones(len(measured), bool)}
    groups |= {f"_at_{ratio}_db": np.array([case.ratio == ratio for case in measured]) for ratio in RATIOS}
    groups |= {f"_in_{kind}": np.array([case.kind == kind for case in measured]) for kind in KINDS}
    return tuple(
        Metric(
            name=f"test_output_snr{group}",
            value=round(float(own[those].mean()), 3),
            floor=round(float(reached[best][those].mean()), 3),
            floor_method=best if group else f"{best}; the other families, in the mean, {others}",
        )
        for group, those in groups.items()
    )


def measure(denoise: Denoiser) -> tuple[Metric, ...]:
    """Measure a denoiser on the test part. Raises: DataError."""
    return figures(list(cases(read_part("test"), TEST_SAMPLES)), denoise, tuned_filters())
