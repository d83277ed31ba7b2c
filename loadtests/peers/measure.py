"""Rounds of the servers in turn: each started anew, checked, loaded and ended, so that nothing else runs beside it.

It knows servers by what the catalogue says of them. Invariant: a server, or a load, that fails is among the results
with the reason, and is left out of the rounds that follow.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from loadtests.models import GRAPH_FILE, STEP_MODEL, TEXT_MODEL, newest, write_references
from loadtests.peers.apps.reader import Reader
from loadtests.peers.catalogue import Baton, Place, Server
from loadtests.peers.environments import PeerError
from loadtests.peers.sessions import Session
from loadtests.peers.steps import load_steps
from loadtests.peers.texts import LONGEST, SHORTEST, Form, check_answers, draw_rows, load_texts
from loadtests.serving import Running, read

Raw = dict[str, Any]
TOKENS = {"tokens-25": (25, 25), "tokens-mixed": (SHORTEST, LONGEST)}  # fewest and most tokens of a text
SESSIONS, WARM_S = 32, 1.0
FAILURES = (PeerError, OSError, psutil.NoSuchProcess)  # a server may reset a connection, or be gone
START = "start"  # under which the failure of a start is told, beside those of loads


class Measurement:
    """What is found of the servers, round by round."""

    def __init__(self, servers: Mapping[str, Server | Baton], folder: Path, cache: Path, seconds: float) -> None:
        self._servers, self._folder, self._cache, self._seconds = servers, folder, cache, seconds
        self._models = write_references(folder / "models")
        self._reader = Reader(newest(TEXT_MODEL, self._models) / GRAPH_FILE, threads=1)
        steps = any(server.sessions for server in servers.values() if isinstance(server, Server))
        self._loads = {name: self._loads_of(server, steps=steps) for name, server in servers.items()}
        self.found: dict[str, Raw] = {
            name: {
                "title": server.title,
                "version": server.version,
                "workers": server.workers,
                "threads": server.threads,
                "options": server.options,
                "loads": {load: [] for load in self._loads[name]},
                "failed": {},
            }
            for name, server in servers.items()
        }

    def _loads_of(self, server: Server | Baton, *, steps: bool) -> dict[str, Callable[[Running, Path], Raw]]:
        loads: dict[str, Callable[[Running, Path], Raw]] = {}
        if server.form:
            loads = {name: partial(self._load_texts, server.form, *lengths) for name, lengths in TOKENS.items()}
        if steps:
            loads |= {kind.title: partial(self._load_steps, kind) for kind in server.sessions}
        return loads

    def take_round(self) -> None:
        for name, server in self._servers.items():
            if START in self.found[name]["failed"]:
                continue
            started = time.perf_counter()
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                place = Place(self._models, self._cache, Path(scratch))
                try:
                    with server.start(place) as running:
                        self._load(name, running, place.folder)
                except FAILURES as failure:
                    self.found[name]["failed"][START] = str(failure)
            print(f"{server.title}: {time.perf_counter() - started:.0f} s", file=sys.stderr)

    def _load(self, name: str, running: Running, folder: Path) -> None:
        found = self.found[name]
        if isinstance(self._servers[name], Baton):
            found["workers"] = json.loads(read(f"{running.url}/v1/info"))["workers"]
        for load, take in self._loads[name].items():
            if load not in found["failed"]:
                try:
                    found["loads"][load].append(take(running, folder))
                except FAILURES as failure:
                    found["failed"][load] = str(failure)

    def _load_texts(self, form: Form, shortest: int, longest: int, server: Running, folder: Path) -> Raw:
        rows = draw_rows(shortest, longest)
        check_answers(server, form, rows, self._reader)
        return asdict(load_texts(server, form, rows, folder, warm_s=WARM_S, seconds=self._seconds))

    def _load_steps(self, kind: type[Session], server: Running, folder: Path) -> Raw:
        steps = newest(STEP_MODEL, self._models) / GRAPH_FILE
        return asdict(load_steps(server, kind, steps, sessions=SESSIONS, warm_s=WARM_S, seconds=self._seconds))


def measure(servers: Mapping[str, Server | Baton], *, rounds: int, seconds: float, cache: Path) -> dict[str, Raw]:
    """Return for each server its raw results of each load, and what failed with the reason."""
    with tempfile.TemporaryDirectory() as scratch:
        measurement = Measurement(servers, Path(scratch), cache, seconds)
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            measurement.take_round()
        return measurement.found
