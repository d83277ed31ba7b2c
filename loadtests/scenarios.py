"""What `make bench` measures: each scenario by its name, from a running service to raw numbers.

It knows what is compared with what, not how it is shown. What is reported later is the median of the rounds' ratios. An
open-loop scenario measures its own peak, right before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from loadtests import payloads
from loadtests.floors import (
    CipherLimit,
    RunLimit,
    StepLimit,
    TokenLimit,
    forecast_limit,
    ids_limit,
    rate,
    sentiment_limit,
    tag_limit,
)
from loadtests.models import COMMITTED, FEATURES, STEP_MODEL, TEXT_MODEL, newest, write_reader
from loadtests.payloads import Pool
from loadtests.requirements import BenchError
from loadtests.serving import baseline, baton, pss_mb
from loadtests.streams import FrameLoad
from loadtests.together import on_every_core
from loadtests.workbench import (
    PEAK_CONNECTIONS,
    ROUNDS,
    SECONDS,
    STREAMS,
    WARM_S,
    Bench,
    Raw,
    ask,
    check_scores,
    closed_floor,
    compare_answers,
    described,
    limit_floor,
)

STEP_CONNECTIONS = 32
TOKENS_S, TOKEN_STATE_BYTES = 0.5, 4096
STEADY_ROUNDS, STEADY_S, STEADY_LOAD = 3, 8.0, 0.7
OVERLOAD_S, OVERLOAD = 15.0, 3.0
SWEEP_S, SWEEP = 3.0, (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
STARTS = 3
CALLS_PER_WORKER = 8  # each over a connection of its own, so that every worker surely has some
SCORED_TEXTS = 64
TEXT = "a good film"
SAMPLES = 2048  # of a signal
TAGGER = "tagger"


def start(bench: Bench) -> Raw:
    """Time to readiness and memory of the committed models alone: as by default, and with one worker."""
    models = len(list(COMMITTED.iterdir()))
    return {"models": models, "default": _starts(bench), "one_worker": _starts(bench, BATON_WORKERS="1")}


def _starts(bench: Bench, **settings: str) -> Raw:
    ready_s, ready_mb, used_mb = [], [], []
    for _ in range(STARTS):
        with baton(COMMITTED, bench.folder, **settings) as service:
            ready_s.append(service.ready_s)
            ready_mb.append(pss_mb(service.pid))
            for path, body in calls_of_each_kind():
                for _ in range(CALLS_PER_WORKER * service.workers):
                    ask(service, path, body)
            used_mb.append(pss_mb(service.pid))
    return {"workers": service.workers, "ready_s": ready_s, "pss_ready_mb": ready_mb, "pss_used_mb": used_mb}


def calls_of_each_kind() -> list[tuple[str, bytes]]:
    """Return a call of every committed model, by what its manifest says it takes."""
    found = []
    for name in sorted(model.name for model in COMMITTED.iterdir()):
        manifest = json.loads((newest(name) / "manifest.json").read_text())
        path, body = _call(manifest)
        found.append((path, json.dumps({"model": name, **body}).encode()))
    return found


def _call(manifest: Raw) -> tuple[str, Raw]:
    if manifest["task"] == "sentiment":
        return "/v1/sentiment", {"inputs": [TEXT]}
    if manifest["task"] in ("tag", "translate"):
        return f"/v1/{manifest['task']}", {"inputs": [TEXT]}
    if manifest["task"] in ("transform", "classify"):
        values = np.zeros(SAMPLES).tolist()
        return f"/v1/{manifest['task']}", {"items": [{"text": TEXT} if manifest.get("text") else {"values": values}]}
    if manifest["task"] == "step":
        start = {"text": TEXT} if manifest.get("text") else {"values": [1.0]}
        return "/v1/step", {"items": [{"begin": {"text": TEXT}} if manifest.get("start") else start]}
    forecast, channels = manifest["forecast"], manifest["inputs"][0]["shape"][2:]
    values = np.zeros([max(64, forecast["min_history"]), *channels]).tolist()
    return "/v1/forecast", {"series": [{"values": values}], "horizon": min(payloads.HORIZON, forecast["horizon"])}


def sentiment_1(bench: Bench) -> Raw:
    return _texts(bench, bench.texts, newest("sentiment"))


def tokens_25(bench: Bench) -> Raw:
    return _texts(bench, payloads.drawn_texts(bench.folder, payloads.EVEN), newest(TEXT_MODEL, bench.models))


def tokens_mixed(bench: Bench) -> Raw:
    return _texts(bench, payloads.drawn_texts(bench.folder, payloads.MIXED), newest(TEXT_MODEL, bench.models))


def _texts(bench: Bench, pool: Pool, model: Path) -> Raw:
    """One text a request, beside the limit and the plain handler with one worker and with one for each core."""
    with ExitStack() as running:
        floors = {}
        for workers in sorted({1, bench.cores}):
            plain = running.enter_context(baseline("plain", bench.folder, workers=workers, model=model))
            compare_answers(bench.service, plain, pool)
            floors[f"plain-{workers}"] = closed_floor(plain, pool, PEAK_CONNECTIONS)
        limit = running.enter_context(on_every_core(partial(sentiment_limit, model, pool.content)))
        floors["in_process"] = limit_floor(limit)
        return {**bench.measure(pool, PEAK_CONNECTIONS, floors), "limit": described(limit)}


def sentiment_32(bench: Bench) -> Raw:
    pool = payloads.many_texts(bench.folder, bench.data)
    with on_every_core(partial(sentiment_limit, newest("sentiment"), pool.content)) as limit:
        return {**bench.measure(pool, 8, {"in_process": limit_floor(limit)}), "limit": described(limit)}


def tag(texts: int, bench: Bench) -> Raw:
    """So many texts a request, each of their words labelled, beside the limit."""
    model = newest(TAGGER)
    pool = payloads.tagged_texts(bench.folder, bench.data, TAGGER, texts)
    with on_every_core(partial(tag_limit, model, pool.content)) as limit:
        return {**bench.measure(pool, PEAK_CONNECTIONS, {"in_process": limit_floor(limit)}), "limit": described(limit)}


def ids_32(bench: Bench) -> Raw:
    """Rows of ids as bytes over the Open Inference Protocol, beside the limit."""
    pool, model = payloads.drawn_ids(bench.folder), newest(TEXT_MODEL, bench.models)
    check_scores(bench.service, pool, model)
    with on_every_core(partial(ids_limit, model, pool.content)) as limit:
        return {**bench.measure(pool, 8, {"in_process": limit_floor(limit)}), "limit": described(limit)}


def forecast_16(bench: Bench) -> Raw:
    pool = payloads.many_series(bench.folder, bench.data)
    series = [series["values"] for series in pool.content]
    with on_every_core(partial(forecast_limit, newest("forecast"), series)) as limit:
        return {**bench.measure(pool, 8, {"in_process": limit_floor(limit)}), "limit": described(limit)}


def int8(bench: Bench) -> Raw:
    """The BiLSTM in int8, beside the same in float32, on texts of mixed lengths; and how far its scores are off."""
    from training.export.quantize import to_int8  # brings PyTorch, which the processes of the limits can do without

    models, twin = bench.folder / "int8", f"{TEXT_MODEL}-int8"
    write_reader(models / TEXT_MODEL / "1")
    write_reader(models / twin / "1", to_int8)
    float32, quantized = (payloads.drawn_texts(bench.folder, payloads.MIXED, name) for name in (TEXT_MODEL, twin))
    with baton(models, bench.folder) as service:
        gaps = []
        for ours, theirs in zip(quantized.bodies[:SCORED_TEXTS], float32.bodies, strict=False):
            (a,), (b,) = (ask(service, quantized.path, body)["results"] for body in (ours, theirs))
            gaps.append(abs(a["polarity"] - b["polarity"]) / 2)  # which is the difference of a label's scores
        floors = {"float32": closed_floor(service, float32, PEAK_CONNECTIONS)}
        raw = replace(bench, service=service).measure(quantized, PEAK_CONNECTIONS, floors)
    return {**raw, "largest_difference": max(gaps), "scored_texts": len(gaps)}


def step_1(bench: Bench) -> Raw:
    pool = payloads.sessions(bench.folder, bench.service.url, 1)
    with baseline("echo", bench.folder, workers=bench.service.workers) as echo:
        if ask(echo, pool.path, pool.bodies[0]) != json.loads(pool.bodies[0]):
            raise BenchError("the echo does not answer with what it was sent")
        return bench.measure(pool, STEP_CONNECTIONS, {"echo": closed_floor(echo, pool, STEP_CONNECTIONS)})


def step_held(bench: Bench) -> Raw:
    """Steps of sessions whose states the server holds, beside those of sessions with their states in tokens."""
    token, held = (payloads.sessions(bench.folder, bench.service.url, 1, hold=hold) for hold in ("client", "server"))
    return bench.measure(held, STEP_CONNECTIONS, {"token": closed_floor(bench.service, token, STEP_CONNECTIONS)})


def step_16(bench: Bench) -> Raw:
    pool = payloads.sessions(bench.folder, bench.service.url, payloads.SESSIONS_PER_REQUEST)
    steps = [item["inputs"] for item in pool.content]
    make = partial(StepLimit, newest(STEP_MODEL, bench.models), steps, payloads.SESSIONS_PER_REQUEST)
    with on_every_core(make) as limit:
        return bench.measure(pool, 8, {"in_process": limit_floor(limit)})


def tokens(bench: Bench) -> Raw:
    """Seal and open a state of 4 KiB, beside the cipher alone."""
    sealing, cipher = TokenLimit(TOKEN_STATE_BYTES), CipherLimit(TOKEN_STATE_BYTES)
    rounds = []
    for _ in range(ROUNDS):
        floor_per_s, sealed_per_s = (rate(limit, TOKENS_S) for limit in (cipher, sealing))
        rounds.append({"cipher_us": 1e6 / floor_per_s, "seal_and_open_us": 1e6 / sealed_per_s})
    return {"rounds": rounds}


def stream_1(bench: Bench) -> Raw:
    """One step a frame, beside a WebSocket that sends the same frames back, of as many workers."""
    load = FrameLoad.write(bench.folder, steps=1)
    with baseline("wsecho", bench.folder, workers=bench.service.workers) as echo:

        def echoed() -> float:
            found = load.run(echo, STREAMS, SECONDS, answer_values=FEATURES)
            if found.errors:
                raise BenchError(f"the echo gave {found.errors} wrong answers, so it is no floor")
            return found.requests_per_s

        return bench.measure_streams(load, {"echo": echoed})


def stream_64(bench: Bench) -> Raw:
    """Many steps a frame, beside the model run on the same frames in batches like those that the service formed."""
    load = FrameLoad.write(bench.folder, steps=64)
    _, runs = load.stream(bench.service, STREAMS, WARM_S)
    batch = max(1, round(runs.batch_rows))
    with on_every_core(partial(RunLimit, newest(STEP_MODEL, bench.models), np.load(load.file), batch)) as limit:
        return {**bench.measure_streams(load, {"session_run": limit_floor(limit)}), "limit": {"batch": batch}}


def steady(bench: Bench) -> Raw:
    """Open loop below the peak: are answers as quick as they can be?"""
    rounds = []
    for number in range(STEADY_ROUNDS):
        peak = bench.peak()
        rounds.append({"peak_per_s": peak, **bench.open_loop(STEADY_LOAD * peak, STEADY_S, seed=number)})
    return {"of_peak": STEADY_LOAD, "rounds": rounds}


def overload(bench: Bench) -> Raw:
    """Open loop far above the peak, which is measured before and after."""
    before = bench.peak()
    outcome = bench.open_loop(OVERLOAD * before, OVERLOAD_S)
    return {"of_peak": OVERLOAD, "peaks_per_s": [before, bench.peak()], **outcome}


def sweep(bench: Bench) -> Raw:
    """Open loop from little to far too much, for the plots."""
    peak = bench.peak()
    return {"peak_per_s": peak, "points": [{"of_peak": f, **bench.open_loop(f * peak, SWEEP_S)} for f in SWEEP]}


SCENARIOS: dict[str, Callable[[Bench], Raw]] = {
    "start": start,
    "sentiment-1": sentiment_1,
    "tokens-25": tokens_25,
    "tokens-mixed": tokens_mixed,
    "sentiment-32": sentiment_32,
    "int8": int8,
    "tag-1": partial(tag, 1),
    "tag-8": partial(tag, 8),
    "ids-32": ids_32,
    "step-1": step_1,
    "step-held": step_held,
    "step-16": step_16,
    "tokens": tokens,
    "forecast-16": forecast_16,
    "stream-1": stream_1,
    "stream-64": stream_64,
    "steady": steady,
    "overload": overload,
    "sweep": sweep,
}
