"""The benchmark's rules on series made by hand, and published detectors' figures on the real ones."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from service.errors import StartupError
from training.series import nab
from training.series.nab import Labelled, read_nab, standard_score, worth
from training.series.nab_detectors import random_scores, silence, windowed_gaussian


def series(length: int = 100, *windows: tuple[int, int]) -> Labelled:
    return Labelled("made", np.zeros(length), windows)


def reports(length: int, *at: int) -> np.ndarray:
    return np.isin(np.arange(length), at).astype(float)


def figure(made: Labelled, *at: int) -> float:
    return standard_score([made], [reports(len(made.values), *at)]).score


def sigmoid(place: float) -> float:
    return 2 / (1 + math.exp(5 * place)) - 1


def test_silence_has_nothing_and_the_perfect_detector_a_hundred():
    made = series(100, (40, 59), (80, 89))
    assert standard_score([made], [np.full(100, 0.5)]).score == 0
    assert figure(made, 40, 80) == pytest.approx(100)


def test_one_window_of_two_is_half():
    assert figure(series(100, (40, 59), (80, 89)), 40) == pytest.approx(50)


@pytest.mark.parametrize("at", [40, 45, 59])
def test_a_report_is_worth_more_the_earlier_it_is_in_its_window(at):
    """Its place is counted from behind the window's end, in lengths of the window."""
    worthy = sigmoid(-(60 - at) / 20) / sigmoid(-1)
    assert worth(series(100, (40, 59)))[at] == pytest.approx(worthy)
    assert figure(series(100, (40, 59)), at) == pytest.approx(50 * (1 + worthy))


def test_only_the_earliest_report_in_a_window_counts():
    assert figure(series(100, (40, 59)), 45, 46, 58) == pytest.approx(figure(series(100, (40, 59)), 45))


def test_a_false_report_costs_by_its_distance_from_the_window_before_it():
    """In full where there is none, or three windows' lengths behind it; next to nothing just behind it."""
    worths = worth(series(200, (40, 50), (150, 160)))
    assert worths[30] == worths[39] == worths[149] == pytest.approx(-0.11)
    assert worths[51] == pytest.approx(0.11 * sigmoid(0.1))
    assert worths[60] == pytest.approx(0.11 * sigmoid(1.0))
    assert worths[161] == pytest.approx(worths[51])
    assert figure(series(200, (40, 50)), 40, 60) == pytest.approx(100 + 50 * worths[60])


def test_probation_counts_for_nothing():
    """15 % of a series, and 750 observations at most."""
    assert [series(length).probation for length in (19, 100, 5000, 20000)] == [2, 15, 750, 750]
    assert figure(series(100, (40, 59)), 0, 14, 40) == pytest.approx(100)
    assert figure(series(100, (40, 59)), 15, 40) == pytest.approx(100 - 50 * 0.11)


def test_the_threshold_is_the_best_there_is_over_all_series():
    """Scores that are equal are reported together, so 4 false reports come with the window's."""
    scores = np.zeros(100)
    scores[[20, 22, 24, 26, 40]] = 0.7
    quiet = series(100)
    standing = standard_score([series(100, (40, 59)), quiet], [scores, reports(100, 30) * 0.6])
    assert (standing.score, standing.threshold) == (pytest.approx(100 - 4 * 50 * 0.11), 0.7)


@pytest.mark.parametrize("change", [lambda scores: scores + 5, lambda scores: scores * 1e-6])
def test_no_figure_depends_on_what_scores_are_counted_in(change):
    made, scores = series(500, (100, 149), (300, 349)), np.random.default_rng(0).random(500)
    assert standard_score([made], [change(scores)]).score == standard_score([made], [scores]).score


def test_scores_of_another_length_are_refused():
    with pytest.raises(ValueError, match="made has 100 observations"):
        standard_score([series(100)], [np.zeros(99)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "made").mkdir(parents=True)
    windows = {"made/one.csv": [["2014-04-10 00:05:00.000000", "2014-04-10 00:10:00.000000"]]}
    (tmp_path / "combined_windows.json").write_text(json.dumps(windows))
    return tmp_path


TEXT = "timestamp,value\n2014-04-10 00:00:00,1\n2014-04-10 00:05:00,2.5\n2014-04-10 00:10:00,-3\n"


def test_series_are_read_with_their_windows(folder, monkeypatch):
    (folder / "data" / "made" / "one.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    monkeypatch.setattr(nab, "SERIES_SHA256", nab.hashlib.sha256(TEXT.encode()).hexdigest())
    (made,) = read_nab(folder / "combined_windows.json")
    assert (made.name, made.values.tolist(), made.windows) == ("made/one.csv", [1, 2.5, -3], ((1, 2),))


def test_other_series_than_the_benchmarks_are_refused(folder):
    with pytest.raises(StartupError, match=r"one\.csv\.gz is missing"):
        read_nab(folder / "combined_windows.json")
    (folder / "data" / "made" / "one.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    with pytest.raises(StartupError, match="have sha256"):
        read_nab(folder / "combined_windows.json")


def test_published_detectors_have_their_published_figures(data_dir: Path):
    """Silence 0, random scores 11.0, which swing by 5 from seed to seed, the windowed Gaussian 39.6."""
    marked = read_nab(data_dir / nab.WINDOWS)
    assert (len(marked), sum(len(made.windows) for made in marked)) == (58, 116)
    assert standard_score(marked, [silence(made.values) for made in marked]).score == 0
    drawn = [np.random.default_rng(seed) for seed in range(10)]
    chance = [standard_score(marked, [random_scores(made.values, rng) for made in marked]).score for rng in drawn]
    assert np.mean(chance) == pytest.approx(11.0, abs=2)
    assert standard_score(marked, [windowed_gaussian(made.values) for made in marked]).score == pytest.approx(
        39.6, abs=2
    )
