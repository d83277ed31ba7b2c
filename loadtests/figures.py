"""The figures that are wanted, each by the scenario that measures it.

It knows raw results and bounds, not tables. Invariant: a figure of a measurement in which requests failed, or whose
generator could not do more, is missed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Raw = dict[str, Any]
FLAT = 1.05  # memory that stays within 5 % does not grow
ALL_OF_A_CORE = 0.9  # a generator that is busier than this was what held the load back
UNITS = {
    "sentiment-1": "texts/s",
    "tokens-25": "texts/s",
    "tokens-mixed": "texts/s",
    "sentiment-32": "texts/s",
    "int8": "texts/s",
    "tag-1": "texts/s",
    "tag-8": "texts/s",
    "ids-32": "rows/s",
    "step-1": "steps/s",
    "step-held": "steps/s",
    "step-16": "steps/s",
    "forecast-16": "series/s",
    "stream-1": "steps/s",
    "stream-64": "steps/s",
}


@dataclass(frozen=True)
class Figure:
    """One line of the table; `value` is what `at_least` or `at_most` bounds, a ratio where there is a floor.

    `spoilt` says why the measurement is worth nothing, where it is.
    """

    what: str
    measured: str
    value: float
    floor: str = ""
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    spoilt: str = ""

    @property
    def met(self) -> bool:
        return not self.spoilt and self.at_least <= self.value <= self.at_most

    def row(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least > -math.inf else f"≤ {self.at_most:g}"
        ratio = f"{self.value:.2f}" if self.floor else ""
        verdict = "met" if self.met else f"**missed: {self.spoilt}**" if self.spoilt else "**missed**"
        return f"| {self.what} | {self.measured} | {self.floor} | {ratio} | {bound}{self.unit} | {verdict} |"


def figures(scenarios: dict[str, Raw]) -> list[Figure]:
    """Return the figures of the scenarios that were measured."""
    return [figure for name, tell in WANTED.items() if name in scenarios for figure in tell(scenarios[name])]


def _texts(name: str, what: str, of_limit: float, over_plain: float) -> Callable[[Raw], list[Figure]]:
    def tell(raw: Raw) -> list[Figure]:
        plain = max((floor for floor in raw["rounds"][0]["floors"] if floor.startswith("plain-")), key=_rate(raw))
        best = f"the same, over a plain FastAPI handler at its best, {workers(int(plain.removeprefix('plain-')))}"
        return [
            _closed(name, raw, "in_process", f"{what}, of the in-process limit on every core", of_limit),
            _closed(name, raw, plain, best, over_plain),
        ]

    return tell


def _rate(raw: Raw) -> Callable[[str], float]:
    return lambda floor: statistics.median(r["floors"][floor] for r in raw["rounds"])


def _closed(name: str, raw: Raw, floor: str, what: str, at_least: float) -> Figure:
    rounds, unit = raw["rounds"], UNITS[name]
    measured = statistics.median(r["load"]["items_per_s"] for r in rounds)
    below = _rate(raw)(floor)
    ratio = statistics.median(r["load"]["items_per_s"] / r["floors"][floor] for r in rounds)
    text = f"{what}, {raw['connections']} connections"
    return Figure(
        text, f"{measured:,.0f} {unit}", ratio, f"{below:,.0f} {unit}", at_least=at_least, spoilt=failed(rounds)
    )


def _times_longer(raw: Raw, floor: str, what: str, at_most: float) -> Figure:
    """Return a figure of the time an item takes, over that of the floor."""
    rounds = raw["rounds"]
    ours, least = (
        [1e6 / rate for rate in rates]
        for rates in ([r["load"]["items_per_s"] for r in rounds], [r["floors"][floor] for r in rounds])
    )
    ratio = statistics.median(mine / other for mine, other in zip(ours, least, strict=True))
    us, least_us = statistics.median(ours), statistics.median(least)
    text = f"{what}, {raw['connections']} connections"
    return Figure(text, f"{us:.1f} us", ratio, f"{least_us:.1f} us", at_most=at_most, spoilt=failed(rounds))


def _many_steps(raw: Raw) -> Figure:
    rows = raw["limit"]["batch"]
    what = f"`/v1/stream`, 64 steps a frame: time a step, of `session.run` on every core, {rows} rows a run"
    return _times_longer(raw, "session_run", what, 1.4)


def _cpu(raw: Raw, what: str, at_most: float) -> Figure:
    us = statistics.median(r["load"]["cpu_us"] for r in raw["rounds"])
    text = f"processor time of the service, all its threads: {what}, {raw['connections']} connections"
    return Figure(text, f"{us:.0f} us", us, at_most=at_most, unit=" us", spoilt=failed(raw["rounds"]))


def _tokens(raw: Raw) -> Figure:
    ours, floor = (statistics.median(r[name] for r in raw["rounds"]) for name in ("seal_and_open_us", "cipher_us"))
    what = f"seal and open a state of 4 KiB (the cipher alone: {floor:.1f} us)"
    return Figure(what, f"{ours:.1f} us", ours, at_most=30, unit=" us")


def _padding(raw: Raw) -> Figure:
    padding = statistics.median(r["batching"]["padding"] for r in raw["rounds"])
    what = f"padded over real steps, mixed lengths, {raw['connections']} connections"
    return Figure(what, f"{padding:.3f}", padding, at_most=1.15, spoilt=failed(raw["rounds"]))


def _int8(raw: Raw) -> Figure:
    what = (
        f"the BiLSTM in int8, over float32 (scores of {raw['scored_texts']} texts differ by at most "
        f"{raw['largest_difference']:.2g})"
    )
    return _closed("int8", raw, "float32", what, 1)


def _steady(raw: Raw) -> Figure:
    rounds = raw["rounds"]
    p50, p99 = (statistics.median(r[name] for r in rounds) for name in ("p50_ms", "p99_ms"))
    ratio = statistics.median(r["p99_ms"] / r["p50_ms"] for r in rounds)
    what = f"open loop at {raw['of_peak']:.0%} of the peak: p99 over p50"
    spoilt = "requests failed" if any(map(not_answered, rounds)) else busy_generator(rounds)
    return Figure(what, f"{p99:.1f} ms", ratio, f"{p50:.1f} ms", at_most=4, spoilt=spoilt)


def _overload(raw: Raw) -> list[Figure]:
    what, peak = f"open loop at {raw['of_peak']:g} x the peak", statistics.mean(raw["peaks_per_s"])
    refused, proper = not_answered(raw), refused_properly(raw)
    memory, spoilt = raw["pss_mb"], busy_generator([raw])
    first, second = max(memory[: len(memory) // 2]), max(memory[len(memory) // 2 :])
    p99_s = math.inf if raw["p99_ms"] is None else raw["p99_ms"] / 1e3
    return [
        Figure(
            f"{what}: answers of 200, of the peak",
            f"{raw['goodput_per_s']:,.0f} /s",
            raw["goodput_per_s"] / peak,
            f"{peak:,.0f} /s",
            at_least=0.9,
            spoilt=spoilt,
        ),
        Figure(
            f"{what}: of all that got no 200, answered 429 with Retry-After",
            f"{proper:,}",
            proper / max(1, refused),
            f"{refused:,}",
            at_least=1,
            spoilt=spoilt,
        ),
        Figure(f"{what}: p99 of the accepted", f"{p99_s:.2f} s", p99_s, at_most=2, unit=" s", spoilt=spoilt),
        Figure(
            f"{what}: most memory in the second half, over the first",
            f"{second:.0f} MB",
            second / first,
            f"{first:.0f} MB",
            at_most=FLAT,
            spoilt=spoilt,
        ),
    ]


def _start(raw: Raw) -> list[Figure]:
    default, alone = raw["default"], raw["one_worker"]
    ready_s = statistics.median(default["ready_s"])
    models = f"{raw['models']} models"
    servers = f"{models}, {workers(default['workers'])}"
    return [
        Figure(f"{servers}: start to ready", f"{ready_s:.2f} s", ready_s, at_most=2, unit=" s"),
        _memory(default, servers, 400),
        _memory(alone, f"{models}, 1 worker", 220),
    ]


def _memory(raw: Raw, what: str, at_most: float) -> Figure:
    mb = statistics.median(raw["pss_used_mb"])
    return Figure(f"{what}: memory (PSS) after a call of each kind", f"{mb:.0f} MB", mb, at_most=at_most, unit=" MB")


def workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def failed(rounds: Sequence[Raw]) -> str:
    """Return what spoils a closed loop in which anything but an answer came."""
    return "requests failed" if errors(rounds) else ""


def errors(rounds: Sequence[Raw]) -> int:
    return sum(r["load"]["errors"] + r["batching"]["failed_items"] for r in rounds)


def busy_generator(runs: Sequence[Raw]) -> str:
    """Return what spoils an open loop that could not be driven harder."""
    return "the generator had no more to give" if any(r["cpu"] > ALL_OF_A_CORE for r in runs) else ""


def not_answered(raw: Raw) -> int:
    return int(raw["arrivals"] - raw["statuses"].get("200", 0))


def refused_properly(raw: Raw) -> int:
    return int(max(0, raw["statuses"].get("429", 0) - raw["refused_without_retry_after"]))


WANTED: dict[str, Callable[[Raw], list[Figure]]] = {
    "sentiment-1": lambda raw: [*_texts("sentiment-1", "1 text a request", 0.75, 2.4)(raw), _padding(raw)],
    "tokens-25": _texts("tokens-25", "the BiLSTM, 25 words a text", 0.75, 2.4),
    "tokens-mixed": _texts("tokens-mixed", "the BiLSTM, 2 to 60 words", 0.75, 2.0),
    "sentiment-32": lambda raw: [
        _closed("sentiment-32", raw, "in_process", "32 texts a request, of the limit on every core", 0.85)
    ],
    "int8": lambda raw: [_int8(raw)],
    "tag-1": lambda raw: [
        _closed("tag-1", raw, "in_process", "`/v1/tag`, 1 text a request, of the limit on every core", 0.7)
    ],
    "tag-8": lambda raw: [
        _closed("tag-8", raw, "in_process", "`/v1/tag`, 8 texts a request, of the limit on every core", 0.7)
    ],
    "ids-32": lambda raw: [
        _closed("ids-32", raw, "in_process", "`/v2` infer, 32 rows of 25 ids as bytes, of the limit on every core", 0.8)
    ],
    "step-1": lambda raw: [
        _closed("step-1", raw, "echo", "`/v1/step`, 1 session, over a FastAPI echo with as many workers", 0.65),
        _cpu(raw, "a step with its token of 4 KiB", 240),
    ],
    "step-held": lambda raw: [_times_longer(raw, "token", "time of a step held by the server, over one's token", 1.3)],
    "step-16": lambda raw: [
        _closed("step-16", raw, "in_process", "`/v1/step`, 16 sessions, of the limit on every core", 0.6)
    ],
    "forecast-16": lambda raw: [
        _closed("forecast-16", raw, "in_process", "`/v1/forecast`, 16 series, of the limit on every core", 0.8)
    ],
    "tokens": lambda raw: [_tokens(raw)],
    "stream-1": lambda raw: [
        _closed("stream-1", raw, "echo", "`/v1/stream`, 1 step a frame, over an echo with as many workers", 0.4),
        _cpu(raw, "a step of a stream", 90),
    ],
    "stream-64": lambda raw: [_many_steps(raw)],
    "steady": lambda raw: [_steady(raw)],
    "overload": _overload,
    "start": _start,
}
