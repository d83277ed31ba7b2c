"""POST /v1/classify with audio, through a real server."""

from __future__ import annotations

import asyncio
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import wav
from conftest import Server
from fastapi import FastAPI
from here import vouched
from starlette.types import Receive, Scope, Send
from tiny_sequences import KINDS, SAMPLE_RATE, run

from service.app import create_app
from service.endpoints.classify import endpoint
from service.endpoints.classify.audio import Recording, read_wav
from service.settings import Settings
from service.web.context import PEER, Peer

CLOSE = 1e-5
ROUNDED = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-23, "PCM_32": 2**-23, "FLOAT": 2**-23, "DOUBLE": 2**-23}


def noise(count: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *channels), scale=0.2).clip(-0.9, 0.9)


def classify(server: Server, *contents: bytes, model: str = "listener") -> list[dict]:
    items = [{"audio": wav.encode(content)} for content in contents]
    return server.post("/v1/classify", {"model": model, "items": items, "scores": "all"}).json()["results"]


def by_hand(models: Path, samples: np.ndarray) -> list[float]:
    filled = np.pad(samples, (0, -len(samples) % 4)).astype(np.float32).reshape(-1, 4)
    return run(models, "listener", x=filled).tolist()


def scores_of(result: dict) -> list[float]:
    return [result["scores"][kind] for kind in KINDS]


@pytest.mark.parametrize("subtype", [*ROUNDED])
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
def test_samples_of_any_width_are_what_the_values_are(
    sequence_server: Server, sequence_models: Path, subtype: str, container: str
) -> None:
    samples = noise(50)
    (result,) = classify(sequence_server, wav.write(samples, SAMPLE_RATE, subtype, container))
    assert (result["steps"], result["seconds"]) == (13, 0.5)
    due = by_hand(sequence_models, samples)
    assert scores_of(result) == pytest.approx(due, abs=CLOSE + 2 * ROUNDED[subtype])


def test_channels_are_averaged(sequence_server: Server, sequence_models: Path) -> None:
    samples = noise(40, 3)
    (result,) = classify(sequence_server, wav.write(samples, SAMPLE_RATE, "FLOAT"))
    assert scores_of(result) == pytest.approx(by_hand(sequence_models, samples.mean(axis=1)), abs=CLOSE)


@pytest.mark.parametrize("rate", [20, 25, 441, 1000, 4410, 5000])
def test_another_rate_is_resampled(sequence_server: Server, rate: int) -> None:
    """A slow wave is the same at each rate, but for what resampling does to its ends."""
    seconds = 4
    wave = {each: 0.5 * np.sin(2 * np.pi * np.arange(seconds * each) / each) for each in (rate, SAMPLE_RATE)}
    other, same = classify(sequence_server, *(wav.write(samples, each) for each, samples in wave.items()))
    assert (other["steps"], other["seconds"]) == (same["steps"], same["seconds"]) == (100, seconds)
    assert scores_of(other) == pytest.approx(scores_of(same), abs=0.05)


def test_audio_is_read_as_the_same_values_are(sequence_server: Server) -> None:
    samples = noise(30).astype(np.float32)
    items = [{"audio": wav.encode(wav.write(samples, SAMPLE_RATE, "FLOAT"))}, {"values": samples.tolist()}]
    body = {"model": "listener-live", "items": items, "scores": "all"}
    audio, values = sequence_server.post("/v1/classify", body).json()["results"]
    assert scores_of(audio) == pytest.approx(scores_of(values), abs=CLOSE)
    assert "seconds" not in values


WHOLE = wav.write(noise(50), SAMPLE_RATE)


def with_rate(rate: int) -> bytes:
    return WHOLE[:24] + struct.pack("<I", rate) + WHOLE[28:]


def with_sizes(riff: int, data: int) -> bytes:
    return WHOLE[:4] + struct.pack("<I", riff) + WHOLE[8:40] + struct.pack("<I", data) + WHOLE[44:]


@pytest.mark.parametrize(
    ("content", "code", "part"),
    [
        (b"", "invalid_request", "is no WAV file, which begins"),
        (b"RIFF", "invalid_request", "is no WAV file, which begins"),
        (b"no audio at all" * 10, "invalid_request", "is no WAV file, which begins"),
        (WHOLE[:30], "invalid_request", "is cut short"),
        (b"RIFF\x10\0\0\0WAVEfmt " + bytes(8), "invalid_request", "is no WAV file that can be read"),
        (WHOLE[:-10], "invalid_request", "is cut short: 134 bytes came of the 144 that its head says"),
        (with_sizes(2**31, 100), "invalid_request", "is cut short"),
        (
            with_sizes(len(WHOLE) - 8, 4000),
            "invalid_request",
            "is cut short: 100 bytes of samples came of the 4000 that its data chunk says",
        ),
        (with_sizes(2**32 - 1, 102), "invalid_request", "is cut short: 100 bytes of samples came of the 102"),
        (wav.write(noise(50), 8000, "PCM_16", "FLAC"), "invalid_request", "is no WAV file, which begins"),
        (wav.write(noise(50), 8000, "VORBIS", "OGG"), "invalid_request", "is no WAV file, which begins"),
        (wav.write(noise(50), 8000, "MS_ADPCM"), "invalid_request", "has MS_ADPCM samples; send 8, 16"),
        (wav.write(noise(0), SAMPLE_RATE), "empty_input", "no samples; give at least one"),
        (wav.write(noise(1), 5000), "empty_input", "1 samples at 5000 Hz are none at 100 Hz"),
        (with_rate(16), "invalid_request", "has 16 samples a second; this model takes 17 to 5000"),
        (with_rate(5001), "invalid_request", "has 5001 samples a second; this model takes 17 to 5000"),
        (with_rate(2**31 - 1), "invalid_request", "has 2147483647 samples a second"),
        (wav.write(np.full(9, np.nan), SAMPLE_RATE, "FLOAT"), "not_finite", "a sample is not finite"),
        (wav.write(np.full(9, 1e300), SAMPLE_RATE, "DOUBLE"), "not_finite", "a sample is not finite"),
        (wav.write(noise(4 * 4096 + 1), SAMPLE_RATE), "item_too_large", "163.85 seconds; at most 163.84 in one item"),
    ],
)
def test_audio_that_will_not_do_is_refused_alone(sequence_server: Server, content: bytes, code: str, part: str) -> None:
    bad, good = classify(sequence_server, content, WHOLE)
    assert (bad["error"]["code"], bad["error"]["field"]) == (code, "items[0].audio")
    assert bad["error"]["message"].startswith(part)
    assert good["steps"] == 13


@pytest.mark.parametrize("text", ["?", "UklG*", "UklGRg", "data:audio/wav;base64,UklGRg==", "ü"])
def test_what_is_no_base64_is_refused(sequence_server: Server, text: str) -> None:
    body = {"model": "listener", "items": [{"audio": text}]}
    (result,) = sequence_server.post("/v1/classify", body).json()["results"]
    assert (result["error"]["code"], result["error"]["field"]) == ("invalid_request", "items[0].audio")
    assert result["error"]["message"].startswith("is no base64")


def test_a_file_that_was_written_to_a_pipe_does_not_know_its_size(sequence_server: Server) -> None:
    piped, whole = classify(sequence_server, with_sizes(2**32 - 1, 2**32 - 1), WHOLE)
    assert piped["scores"] == pytest.approx(whole["scores"], abs=CLOSE)
    assert piped["seconds"] == whole["seconds"] == 0.5


def test_a_header_that_promises_much_costs_nothing(sequence_server: Server) -> None:
    """The samples that are there count, and those that a low rate would make of them, before any is decoded."""
    slow = wav.write(noise(4000), 20, "PCM_U8")  # 20000 samples at the rate of the model
    (result,) = classify(sequence_server, slow)
    assert (result["error"]["code"], result["error"]["limit"]) == ("item_too_large", pytest.approx(163.84))


def test_many_recordings_at_once_are_answered_as_each_alone(sequence_server: Server) -> None:
    files = [wav.write(noise(100 + count), 441) for count in range(24)]
    alone = [classify(sequence_server, file)[0] for file in files]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(lambda file: classify(sequence_server, file)[0], files))
    for one, other in zip(alone, together, strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=CLOSE)


def test_decoding_counts_against_the_deadline_of_a_request(sequence_server: Server) -> None:
    items = [{"audio": wav.encode(wav.write(noise(3000), 4999))}] * 256
    answer = sequence_server.post("/v1/classify", {"model": "listener", "items": items, "timeout_ms": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    assert "of 256 items read within the deadline; send fewer" in answer.json()["error"]["message"]


@pytest.fixture
def app(sequence_models: Path, tmp_path: Path) -> FastAPI:
    settings = Settings(models_dir=sequence_models, state_dir=tmp_path)
    return create_app(settings, tried=vouched(sequence_models))


@pytest.mark.anyio
async def test_recordings_wait_for_no_other_work(app: FastAPI) -> None:
    """Reloads and metrics have threads of their own, which may all be busy."""
    busy, (body, peer) = threading.Event(), (body_of(1), Peer())
    with ThreadPoolExecutor(1) as others:
        asyncio.get_running_loop().set_default_executor(others)
        try:
            async with client_of(app, peer) as client, app.router.lifespan_context(app):
                others.submit(busy.wait)
                answer = await asyncio.wait_for(client.post("/v1/classify", json=body), 30)
                busy.set()
        finally:
            busy.set()
    assert answer.json()["summary"] == {"ok": 1, "failed": 0}


@pytest.mark.anyio
async def test_the_recordings_of_a_client_that_left_are_not_decoded(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go, peer, decoded = threading.Event(), threading.Event(), Peer(), []

    def wait_and_read(text: str, sample_rate: int, most: int) -> Recording:
        begun.set()
        let_go.wait()
        decoded.append(text)
        return read_wav(text, sample_rate, most)

    monkeypatch.setattr(endpoint, "read_wav", wait_and_read)
    async with client_of(app, peer) as client, app.router.lifespan_context(app):
        posting = asyncio.create_task(client.post("/v1/classify", json=body_of(8)))
        await asyncio.to_thread(begun.wait)
        peer.leave()
        let_go.set()
        await asyncio.gather(posting, return_exceptions=True)
    assert len(decoded) == 1


def body_of(recordings: int) -> dict[str, Any]:
    return {"model": "listener", "items": [{"audio": wav.encode(WHOLE)}] * recordings}


def client_of(app: FastAPI, peer: Peer) -> httpx.AsyncClient:
    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, PEER: peer}, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(known), base_url="http://baton")
