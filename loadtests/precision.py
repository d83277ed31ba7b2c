"""`python -m loadtests.precision`: what `"precision": "float16"` costs on the committed models, on data they never saw.

Sessions step through the data twice, in process and with the service's own code: with their states as they are, and
with every state cut to float16 and restored after each step, as in a float16 token. Writes the table of
docs/state.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtests.models import engine_of, newest
from loadtests.report import write_between
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.launch import ROOT
from training.datasets import find
from training.series.data import read_ett, read_weekly
from training.series.metrics import pinball
from training.tasks.classifier.sentiment import read_phrases
from training.tasks.forecast_live.evaluation import live_figures

PAGE = ROOT / "docs" / "state.md"
LAST_STEPS = 13  # of a weekly series, those that M4 asks for

Values = npt.NDArray[np.float64]


@dataclass
class Cost:
    """One line of the table: differences of outputs, and a figure of the model with float32 and with float16."""

    data: str
    largest: float
    mean: float
    figure: str
    exact: float
    cut: float


class Sessions:
    """Sessions of one model that step together; with `cut` each state makes the trip through float16."""

    def __init__(self, engine: Engine, count: int, *, cut: bool) -> None:
        self._engine, self._cut = engine, cut
        self.states: list[bytes | None] = [None] * count

    def step(self, steps: Sequence[npt.NDArray[np.generic]], places: Sequence[int]) -> list[Answer]:
        """Take steps with the sessions at `places`, and return their answers."""
        rows = [Row(taken, self.states[place]) for taken, place in zip(steps, places, strict=True)]
        answers = []
        for place, answer in zip(places, self._engine.run(rows), strict=True):
            assert isinstance(answer, Answer), answer
            self.states[place] = self._trip(answer.state) if self._cut else answer.state
            answers.append(answer)
        return answers

    def _trip(self, state: bytes) -> bytes:
        return self._engine.layout.from_float16(self._engine.layout.to_float16(state))


def sentiment_cost() -> Cost:
    """Read each test sentence of SST-2 word by word; the last word's label is the sentence's."""
    engine = engine_of(newest("sentiment-live"))
    texts, labels = read_phrases(find("sst2/test.tsv").path)
    rows = [Row(text=text, max_tokens=512) for text in texts]
    engine.prepare(rows)
    scores, right = {}, {}
    for cut in (False, True):
        sessions, last, seen = Sessions(engine, len(rows), cut=cut), np.empty((len(rows), 2)), []
        for word in range(max(len(row.steps) for row in rows)):
            places = [place for place, row in enumerate(rows) if len(row.steps) > word]
            answers = sessions.step([rows[place].steps[word : word + 1] for place in places], places)
            last[places] = [answer.outputs["scores"][0] for answer in answers]
            seen.append(last[places])
        scores[cut] = np.concatenate(seen)
        right[cut] = float(np.mean(last.argmax(axis=1) == labels))
    difference = np.abs(scores[True] - scores[False])
    data = f"`sentiment-live`: SST-2 test, {len(rows):,} sentences, word by word"
    return Cost(data, difference.max(), difference.mean(), "accuracy", right[False], right[True])


def ett_cost() -> Cost:
    """Stream ETTh1's test part as the model's own figures do, one observation a step."""
    engine = engine_of(newest("forecast-live"))
    ett = read_ett(find("ett/ETTh1.csv").path)
    made: dict[bool, Values] = {}
    figures = {}
    for cut in (False, True):

        def stream(streams: Values, cut: bool = cut) -> tuple[Values, Values]:
            sessions, places = Sessions(engine, len(streams), cut=cut), range(len(streams))
            steps = [sessions.step(observed, places) for observed in streams.T[:, :, None]]
            quantiles, anomaly = (
                np.array([[answer.outputs[name][0] for answer in step] for step in steps], np.float64).swapaxes(0, 1)
                for name in ("quantiles", "anomaly")
            )
            made.setdefault(cut, quantiles)  # the first are the test part's streams, later ones have injections
            return quantiles, anomaly

        figures[cut] = live_figures(ett, stream)[0].value
    unit = np.abs(np.diff(ett, axis=0)).mean(axis=0)[:, None, None]
    difference = np.abs(made[True] - made[False]) / unit
    data = f"`forecast-live`: ETTh1 test, 7 streams of {made[True].shape[1]:,} observations"
    return Cost(data, difference.max(), difference.mean(), "pinball loss", figures[False], figures[True])


def weekly_cost() -> Cost:
    """Stream the last values of M4's weekly series."""
    engine = engine_of(newest("forecast-live"))
    series = read_weekly(find("m4_weekly/Weekly-train.csv").path)
    unit = np.array([np.abs(np.diff(values)).mean() for values in series])
    actual = np.stack([values[-LAST_STEPS:] for values in series])
    made, loss = {}, {}
    for cut in (False, True):
        sessions, places = Sessions(engine, len(series), cut=cut), range(len(series))
        steps = [sessions.step([values[:-LAST_STEPS] for values in series], places)]
        for ahead in range(LAST_STEPS - 1):
            steps.append(sessions.step([row[ahead : ahead + 1] for row in actual], places))
        made[cut] = np.array([[answer.outputs["quantiles"][-1] for answer in one] for one in steps], np.float64)
        loss[cut] = float(np.mean(pinball(actual, made[cut].transpose(1, 0, 2)) / unit))
    difference = np.abs(made[True] - made[False]) / unit[:, None]
    data = f"`forecast-live`: M4 weekly, {len(series)} series, their last {LAST_STEPS} observations"
    return Cost(data, difference.max(), difference.mean(), "pinball loss", loss[False], loss[True])


def main() -> None:
    """Measure, and write the table into docs/state.md."""
    lines = [
        "| model and data | largest difference | mean difference | figure | float32 | float16 |",
        "|---|---|---|---|---|---|",
        *(
            f"| {c.data} | {c.largest:.2g} | {c.mean:.2g} | {c.figure} | {c.exact:.5f} | {c.cut:.5f} |"
            for c in (sentiment_cost(), ett_cost(), weekly_cost())
        ),
    ]
    write_between(PAGE, "precision", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
