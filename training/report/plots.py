"""The pictures of a model's report: from plain arrays to files that are the same for the same numbers.

It knows matplotlib and what a picture should say, not models, data or services. Invariant: nothing is drawn that was
not handed in; a point without a value leaves a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

Values = npt.NDArray[np.float64]

mpl.rcParams.update(
    {"svg.hashsalt": "baton", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3, "font.size": 9.0}
)
WIDTH_INCHES = 9.0
ROW_INCHES = 2.4
TRUTH, MODEL, FLOOR = "black", "tab:blue", "tab:orange"
BINS = 10
MAX_SVG_BYTES = 100_000  # of many points, a picture of pixels is smaller
PNG_DPI = 80


@dataclass(frozen=True)
class Fan:
    """One forecast beside the truth.

    Shapes: history [time]; truth and centre (the median or the mean) [horizon]; bands maps a central interval in
    percent to its lower and upper bounds, each [horizon].
    """

    title: str
    history: Values
    truth: Values
    centre: Values
    bands: Mapping[int, tuple[Values, Values]]


def draw_learning_curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw each logged figure over the epochs, one panel a figure; each curve is pairs of epoch and value."""
    figure, panels = plt.subplots(1, len(curves), figsize=(WIDTH_INCHES, ROW_INCHES), squeeze=False)
    for axes, (name, points) in zip(panels[0], curves.items(), strict=True):
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, "o-", markersize=3, color=MODEL)
        axes.set(title=name, xlabel="epoch")
    return figure


def draw_confusion(counts: Values, labels: Sequence[str]) -> Figure:
    """Draw how often each label was answered for each true one. Shapes: counts [true, answered]."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES / 2.4, WIDTH_INCHES / 2.7))
    axes.grid(False)
    shares = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, answered), share in np.ndenumerate(shares):
        text = f"{int(counts[true, answered]):,}\n{share:.1%}"
        axes.text(answered, true, text, ha="center", va="center", color="white" if share > 0.5 else "black")
    places = range(len(labels))
    axes.set(xticks=places, yticks=places, xticklabels=labels, yticklabels=labels, xlabel="answered", ylabel="true")
    return figure


def draw_reliability(scores: Values, correct: npt.NDArray[np.bool_]) -> Figure:
    """Draw how often answers of a score are right, and how many answers have that score.

    Shapes: scores (of the label that was answered) and correct [items].
    """
    figure, (curve, histogram) = plt.subplots(
        2, 1, figsize=(WIDTH_INCHES / 2.2, WIDTH_INCHES / 2.2), height_ratios=(3, 1), sharex=True
    )
    edges = np.linspace(scores.min(), 1, BINS + 1)
    place = np.clip(np.digitize(scores, edges) - 1, 0, BINS - 1)
    filled = np.flatnonzero(np.bincount(place, minlength=BINS))
    mean = [scores[place == each].mean() for each in filled]
    right = [correct[place == each].mean() for each in filled]
    curve.plot([edges[0], 1], [edges[0], 1], ":", color="gray", label="perfectly calibrated")
    curve.plot(mean, right, "o-", color=MODEL, label="this model")
    curve.set(ylabel="share that is right", ylim=(None, 1.02))
    curve.legend(fontsize="small")
    histogram.hist(scores, bins=list(edges), color=MODEL)
    histogram.set(xlabel="score of the answered label", ylabel="answers")
    return figure


def draw_fans(fans: Sequence[Fan], centre: str) -> Figure:
    """Draw forecasts with their intervals against what came; `centre` says what their centre is."""
    columns = 2
    rows = -(-len(fans) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(WIDTH_INCHES, ROW_INCHES * rows), squeeze=False)
    for axes, fan in zip(panels.flat, fans, strict=False):
        past, ahead = np.arange(-len(fan.history), 0), np.arange(len(fan.truth))
        axes.plot(past, fan.history, color=TRUTH, linewidth=1)
        for level in sorted(fan.bands, reverse=True):
            low, high = fan.bands[level]
            axes.fill_between(ahead, low, high, color=MODEL, alpha=0.2, linewidth=0, label=f"{level} %")
        axes.plot(ahead, fan.centre, color=MODEL, label=centre)
        axes.plot(ahead, fan.truth, color=TRUTH, linewidth=1, label="truth")
        axes.axvline(0, color="gray", linestyle=":", linewidth=1)
        axes.set_title(fan.title)
    for axes in panels.flat[len(fans) :]:
        axes.set_axis_off()
    panels.flat[0].legend(fontsize="small", loc="upper left")
    return figure


def draw_coverage(by_level: Mapping[int, Values], title: str) -> Figure:
    """Draw the share of values inside each central interval at each step ahead. Shapes: each [horizon]."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, ROW_INCHES))
    for level, share in by_level.items():
        (line,) = axes.plot(np.arange(1, len(share) + 1), 100 * share, label=f"{level} % interval")
        axes.axhline(level, color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(title=title, xlabel="steps ahead", ylabel="inside, %", ylim=(50, 101))
    axes.legend(fontsize="small", loc="lower left")
    return figure


def draw_error(by_method: Mapping[str, Values], title: str, unit: str) -> Figure:
    """Draw errors by step ahead, the model's first. Shapes: each [horizon]."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, ROW_INCHES))
    for place, (method, error) in enumerate(by_method.items()):
        color = MODEL if place == 0 else None if place > 1 else FLOOR
        axes.plot(np.arange(1, len(error) + 1), error, label=method, color=color)
    axes.set(title=title, xlabel="steps ahead", ylabel=unit, ylim=(0, None))
    axes.legend(fontsize="small")
    return figure


def draw_by_share(shares: Values, accuracy: Values, axis: str) -> Figure:
    """Draw accuracy by the share of each row that was read; `axis` says of what. Shapes: both [points]."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, ROW_INCHES))
    axes.plot(100 * shares, 100 * accuracy, "o-", color=MODEL)
    axes.set(xlabel=axis, ylabel="right, %")
    return figure


def draw_anomalies(values: Values, low: Values, high: Values, score: Values, injected: Sequence[int]) -> Figure:
    """Draw a stream in its one-step 95 % interval, and the anomaly score of each observation below it.

    Shapes: all [time]; `low` and `high` stand at the observation that they were predicted for.
    """
    time = np.arange(len(values))
    figure, (stream, scores) = plt.subplots(
        2, 1, figsize=(WIDTH_INCHES, 2 * ROW_INCHES), sharex=True, height_ratios=(3, 2)
    )
    stream.fill_between(time, low, high, color=MODEL, alpha=0.3, linewidth=0, label="predicted, 95 %")
    stream.plot(time, values, color=TRUTH, linewidth=1, label="observed")
    stream.plot(injected, values[list(injected)], "o", color="tab:red", markersize=5, label="put in by hand")
    stream.legend(fontsize="small", loc="upper left")
    scores.plot(time, score, color=MODEL)
    scores.axhline(1, color="gray", linestyle=":", linewidth=1)
    scores.set(ylabel="anomaly", xlabel="observation", ylim=(0, None))
    return figure


def draw_surprise(text: str, nats: Values, ages: Values, by_age: Values) -> Figure:
    """Draw a text with the surprise of each character, and the mean surprise by characters read before.

    Shapes: nats [characters of text]; ages (characters read before) and by_age [points].
    Units: nats.
    """
    lines, start = [], 0
    for line in text.splitlines(keepends=True):
        lines.append((line.rstrip("\n"), nats[start : start + len(line)]))
        start += len(line)
    colours = mpl.colormaps["YlOrRd"]
    figure, (page, curve) = plt.subplots(
        1, 2, figsize=(WIDTH_INCHES, ROW_INCHES * 1.4), width_ratios=(3, 2), squeeze=True
    )
    longest = max(len(line) for line, _ in lines)
    for row, (line, surprise) in enumerate(lines):
        for column, (character, amount) in enumerate(zip(line, surprise, strict=False)):
            box = {"facecolor": colours(min(amount / 6, 1.0) * 0.8), "edgecolor": "none", "pad": 0.8}
            page.text(column, row, character, family="monospace", size=7, ha="center", va="center", bbox=box)
    page.set(xlim=(-1, longest), ylim=(len(lines) - 0.5, -0.5), title="surprise of each character")
    page.set_axis_off()
    curve.plot(ages, by_age, "o-", markersize=3, color=MODEL)
    curve.set(xlabel="characters read before", ylabel="nats per character", xscale="log", title="what state is worth")
    return figure


def draw_denoised(examples: Mapping[str, tuple[Values, Values, Values]], rate: int) -> Figure:
    """Draw noisy signals, each with the clean one and the model's answer over it. Shapes: three times [samples] each.

    Units: millivolts; `rate` in samples a second.
    """
    figure, panels = plt.subplots(
        len(examples), 1, figsize=(WIDTH_INCHES, ROW_INCHES * len(examples)), sharex=True, squeeze=False
    )
    for axes, (title, (noisy, clean, answer)) in zip(panels[:, 0], examples.items(), strict=True):
        seconds = np.arange(len(noisy)) / rate
        axes.plot(seconds, noisy, color=FLOOR, linewidth=0.8, alpha=0.6, label="noisy")
        axes.plot(seconds, clean, color=TRUTH, linewidth=1, label="clean")
        axes.plot(seconds, answer, color=MODEL, linewidth=1, label="the model's answer")
        axes.set(title=title, ylabel="mV")
    panels[0, 0].legend(fontsize="small", loc="upper left")
    panels[-1, 0].set(xlabel="seconds")
    return figure


def draw_strokes(texts: Mapping[str, Sequence[npt.NDArray[np.float32]]], columns: int) -> Figure:
    """Draw the pen's strokes of each text, all at one scale. Shapes: strokes each [points, 2]."""
    rows = -(-len(texts) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(WIDTH_INCHES, ROW_INCHES / 2 * rows), sharex=True, sharey=True, squeeze=False
    )
    for axes in panels.flat:
        axes.set_axis_off()
        axes.set_aspect("equal")
    for axes, (title, strokes) in zip(panels.flat, texts.items(), strict=False):
        for stroke in strokes:
            axes.plot(*stroke.T, color=MODEL, linewidth=1, marker="." if len(stroke) == 1 else None, markersize=2)
        axes.set_title(title, fontsize="small")
    return figure


def draw_attention(sentences: Sequence[tuple[Sequence[str], Sequence[str], Values]]) -> Figure:
    """Draw how much each piece that was written looked at each that was read: a panel for each of `sentences`, with
    what was read, what was written, and the weights [written, read]."""
    figure, panels = plt.subplots(1, len(sentences), figsize=(WIDTH_INCHES, WIDTH_INCHES / len(sentences)))
    for axes, (read, written, weights) in zip(panels, sentences, strict=True):
        axes.grid(False)
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axes.set(xticks=range(len(read)), yticks=range(len(written)), yticklabels=written)
        axes.set_xticks(axes.get_xticks(), read, rotation=90)
    figure.tight_layout()
    return figure


def save(figure: Any, folder: Path, name: str) -> str:
    """Write a figure into `folder` as SVG or, where that is large, as PNG, without a date; return the file's name."""
    figure.tight_layout()
    file = folder / f"{name}.svg"
    figure.savefig(file, metadata={"Date": None})
    if file.stat().st_size > MAX_SVG_BYTES:
        file.unlink()
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=PNG_DPI, metadata={"Software": None})
    plt.close(figure)
    return file.name
