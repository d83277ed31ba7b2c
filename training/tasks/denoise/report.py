"""What is worth a picture of a denoiser: a noisy ECG, what the model and the best filter make of it, and the truth.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: records and places are fixed, never chosen by their outcome.
"""

from __future__ import annotations

from functools import partial

from service.contract.manifest import Manifest
from training.report.pages import Picture, Table
from training.report.plots import draw_denoised
from training.tasks.denoise.data import KINDS, MINUTE, RATE, RATIOS, cases, read_part
from training.tasks.denoise.evaluation import ask_denoise, output_ratios, tuned_filters

SHOWN = slice(20 * RATE, 26 * RATE)  # of a minute
SHOWN_RATIO = 6


def report_denoise(url: str, manifest: Manifest) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a minute of each of the test part's records: an example, and the output ratios beside the filters'."""
    measured = list(cases(read_part("test"), MINUTE))
    denoise, filters = partial(ask_denoise, url, manifest.name), tuned_filters()
    examples = [case for case in measured if case.ratio == SHOWN_RATIO][: len(KINDS)]
    drawn = draw_denoised(
        {
            f"{KINDS[case.kind]}, {case.ratio} dB": (case.noisy[SHOWN], case.clean[SHOWN], denoise(case.noisy)[SHOWN])
            for case in examples
        },
        RATE,
    )
    reached = {manifest.name: output_ratios(measured, denoise)}
    reached |= {each.name: output_ratios(measured, each.apply) for each in filters}
    groups = [[case.ratio == ratio for case in measured] for ratio in RATIOS]
    groups += [[case.kind == kind for case in measured] for kind in KINDS]
    rows = ((name, *(f"{ratios[those].mean():.1f}" for those in groups)) for name, ratios in reached.items())
    table = Table(
        caption="Output SNR in dB on a minute of each record of the test part, by input SNR and by kind of noise.",
        header=("method", *(f"{ratio} dB" for ratio in RATIOS), *KINDS.values()),
        rows=tuple(rows),
    )
    caption = (
        f"The test part's first record ({examples[0].record}) in each kind of noise, and what the model makes of it."
    )
    return (Picture("denoised", caption, drawn),), (table,)
