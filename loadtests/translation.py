"""`make bench-translate`: what translation costs beside a loop over ONNX Runtime, and what sentences gain by company.

`translate` is served alone: with default settings, and by one worker beside the loop, which has one thread. It knows
rounds and tables, not how a search is made. Writes `loadtests/results/translation.json` and a table of
docs/benchmarks.md. Invariant: the loop and the service give the same translations, or there is no figure.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import typer
from tokenizers import Tokenizer

from loadtests.bench import publish
from loadtests.english import ENGLISH
from loadtests.figures import Figure, workers
from loadtests.floors import Array, open_session
from loadtests.models import COMMITTED, newest
from loadtests.report import FIGURES_HEAD
from loadtests.requirements import BenchError
from loadtests.serving import CoresWatch, Running, baton
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "translation.json"
PAGE = ROOT / "docs" / "benchmarks.md"
MODEL, BEAMS = "translate", (1, 4)
TOGETHER, CONNECTIONS, ROUNDS = 64, 32, 5
BATCHES = (8, 16, 32, 64)
SAME = 0.95  # of the translations: rounding may turn one over that two hypotheses nearly share
Raw = dict[str, Any]


@dataclass(frozen=True)
class Round:
    """Sentences a second of each way, and the cores that all else on the machine used."""

    alone: float
    together: float
    one_worker: float
    loop: float
    other_cores: float


class Loop:
    """Translations by beam search over ONNX Runtime alone, `batch` sentences of like length at a time."""

    def __init__(self, directory: Path, beams: int) -> None:
        self._manifest = json.loads((directory / "manifest.json").read_text())
        self._start, self.beams, self.batch = self._manifest["start"], beams, TOGETHER
        self._encoder, self._decoder = (
            open_session(directory / part["file"]) for part in (self._start, self._manifest)
        )
        self._source, self._target = (
            Tokenizer.from_file(str(directory / part["text"]["tokenizer"])) for part in (self._start, self._manifest)
        )
        handed_on = [state["output"] for state in self._manifest["states"] if "output" in state]
        self._ids = self._manifest["inputs"][0]["name"]
        self._names = [self._manifest["feedback"]["output"], *handed_on]
        self.batch = max(BATCHES, key=self._try)

    def _try(self, batch: int) -> float:
        self.batch = batch
        return self.rate()

    def rate(self) -> float:
        """Return sentences a second over all."""
        started = time.perf_counter()
        self.translate(ENGLISH)
        return len(ENGLISH) / (time.perf_counter() - started)

    def translate(self, sentences: Sequence[str]) -> list[str]:
        """Return the best translation of each."""
        order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
        made = [""] * len(sentences)
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            found = self._translate([self._source.encode(sentences[place]).ids for place in part])
            for place, ids in zip(part, found, strict=True):
                made[place] = self._target.decode(ids)
        return made

    def _begin(self, sources: Sequence[Sequence[int]]) -> dict[str, Array]:
        """Return what the decoder is fed of these, before its first step."""
        lengths = np.array([len(ids) for ids in sources], np.int32)
        padded = np.zeros((len(sources), lengths.max()), np.int32)
        for row, ids in zip(padded, sources, strict=True):
            row[: len(ids)] = ids
        names = [output["name"] for output in self._start["outputs"]]
        feeds = {self._start["inputs"][0]["name"]: padded, self._start["lengths"]: lengths}
        begun = dict(zip(names, self._encoder.run(names, feeds), strict=True))
        fed: dict[str, Array] = {self._manifest["memory_lengths"]: lengths}
        for state in self._manifest["states"]:
            shape = [len(sources) if size == "batch" else size for size in state["shape"]]
            given = self._start["states"].get(state["input"])
            fed[state["input"]] = np.zeros(shape, np.float32) if given is None else begun[given]
        return fed

    def _translate(self, sources: Sequence[Sequence[int]]) -> list[list[int]]:
        feedback, beams = self._manifest["feedback"], self.beams
        fed = self._begin(sources)
        ids = np.full((len(sources), 1), feedback["start"], np.int32)
        live = [[(0.0, list[int]())] for _ in sources]
        ended: list[list[tuple[float, list[int]]]] = [[] for _ in sources]
        most = [min(self._manifest["text"]["max_length"], 10 + 3 * len(source)) for source in sources]
        places = [*range(len(sources))]
        for step in range(max(most) + 1):
            logp = self._step(fed, ids)
            rows, done, chosen, parents, going = 0, step == np.array(most), [], [], []
            for place in places:
                own = live[place]
                total = (logp[rows : rows + len(own)] + np.array([[score] for score, _ in own], np.float32)).ravel()
                best = np.argpartition(total, -2 * beams)[-2 * beams :]
                best = best[np.argsort(-total[best])]
                found: list[tuple[float, list[int], int, int]] = []
                for rank, where in enumerate(best.tolist()):
                    parent, token = divmod(where, logp.shape[1])
                    if token != feedback["end"]:
                        found.append((float(total[where]), [*own[parent][1], token], rows + parent, token))
                    elif rank < beams:
                        ended[place].append((float(total[where]), own[parent][1]))
                    if len(found) == beams:
                        break
                rows += len(own)
                if done[place] or len(ended[place]) >= beams:
                    continue
                live[place] = [(score, written) for score, written, _, _ in found]
                parents += [parent for _, _, parent, _ in found]
                chosen += [token for *_, token in found]
                going.append(place)
            if not going:
                break
            places, ids = going, np.array(chosen, np.int32)[:, None]
            fed = {name: self._take(name, tensor, parents) for name, tensor in fed.items()}
        return [self._best(ended[place] or live[place]) for place in range(len(sources))]

    def _step(self, fed: dict[str, Array], ids: Array) -> Array:
        """Run the decoder over one id of each row, and return the log probabilities of the next."""
        feeds = {
            self._manifest["inputs"][0]["name"]: ids,
            self._manifest["lengths"]: np.ones(len(ids), np.int32),
            **fed,
        }
        made, *states = self._decoder.run(self._names, feeds)
        outputs = dict(zip(self._names[1:], states, strict=True))
        for state in self._manifest["states"]:
            if "output" in state:
                fed[state["input"]] = outputs[state["output"]]
        if self._manifest["feedback"]["form"] == "probabilities":
            return np.asarray(np.log(made[:, 0]))
        above = made[:, 0] - made[:, 0].max(axis=1, keepdims=True)
        return np.asarray(above - np.log(np.exp(above).sum(axis=1, keepdims=True)))

    def _take(self, name: str, tensor: Array, rows: Sequence[int]) -> Array:
        axes = {state["input"]: state["shape"].index("batch") for state in self._manifest["states"]}
        return tensor.take(rows, axis=axes.get(name, 0))

    @staticmethod
    def _best(found: Sequence[tuple[float, list[int]]]) -> list[int]:
        return max(found, key=lambda one: one[0] / ((6 + len(one[1])) / 6))[1]


class Client:
    """A connection to a service."""

    def __init__(self, service: Running, beams: int) -> None:
        where = urlsplit(service.url)
        self._connection, self._beams = HTTPConnection(where.hostname or "", where.port, timeout=60), beams

    def translate(self, sentences: Sequence[str]) -> list[str]:
        """Have sentences translated in one request. Raises: BenchError when it is refused."""
        body = json.dumps({"model": MODEL, "inputs": sentences, "beams": self._beams})
        self._connection.request("POST", "/v1/translate", body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise BenchError(f"{answer.status}: {str(content)[:400]}")
        return [result["text"] for result in content["results"]]

    def close(self) -> None:
        self._connection.close()


def one_by_one(clients: Sequence[Client]) -> float:
    """Return sentences a second, one in each request, over all connections."""

    def work(number: int) -> None:
        for sentence in ENGLISH[number :: len(clients)]:
            clients[number].translate([sentence])

    with ThreadPoolExecutor(len(clients)) as pool:
        started = time.perf_counter()
        list(pool.map(work, range(len(clients))))
        return len(ENGLISH) / (time.perf_counter() - started)


def at_once(client: Client) -> float:
    """Return sentences a second, all in one request."""
    started = time.perf_counter()
    client.translate(ENGLISH)
    return len(ENGLISH) / (time.perf_counter() - started)


def measure_beams(service: Running, worker: Running, loop: Loop) -> list[Raw]:
    with ExitStack() as open_now:
        sides = [[Client(one, loop.beams) for _ in range(CONNECTIONS)] for one in (service, worker)]
        for client in (*sides[0], *sides[1]):
            open_now.callback(client.close)
        _check_same(sides[0][0].translate(ENGLISH), loop.translate(ENGLISH))
        measured = [_round(*sides, worker, loop) for _ in range(1 + ROUNDS)]
        return [asdict(one) for one in measured[1:]]  # the first warms all of them


def _round(service: Sequence[Client], alone: Sequence[Client], worker: Running, loop: Loop) -> Round:
    singly, together = one_by_one(service[:1]), at_once(service[0])
    watch = CoresWatch(worker)
    one_worker = one_by_one(alone)
    used = watch.used()
    return Round(singly, together, one_worker, loop.rate(), used.other)


def _check_same(served: Sequence[str], looped: Sequence[str]) -> None:
    same = sum(map(str.__eq__, served, looped)) / len(served)
    if same < SAME:
        raise BenchError(f"only {same:.0%} of the translations are those of the loop")


def measure(folder: Path) -> Raw:
    models = folder / "models"
    models.mkdir()
    (models / MODEL).symlink_to(COMMITTED / MODEL)
    with ExitStack() as open_now:
        service = open_now.enter_context(baton(models, folder))
        worker = open_now.enter_context(baton(models, folder, BATON_WORKERS="1"))
        loops = {beams: Loop(newest(MODEL, models), beams) for beams in BEAMS}
        rounds = {str(beams): measure_beams(service, worker, loop) for beams, loop in loops.items()}
        batches = {str(beams): loop.batch for beams, loop in loops.items()}
    return {"workers": service.workers, "batches": batches, "rounds": rounds}


def table(result: Raw) -> str:
    """Return the figures as the page shows them."""
    machine = result["machine"]
    others = [each["other_cores"] for rounds in result["rounds"].values() for each in rounds]
    about = (
        f"Measured on {result['date']} at the commit of {result['commit_date']}: {machine['cores']} cores, "
        f"{machine['processor']}; `{MODEL}` alone, served by {workers(result['workers'])}, which share the machine "
        f"with their clients and with other processes that took {statistics.median(others):.2f} cores meanwhile; "
        f"{len(ENGLISH)} sentences, medians of {ROUNDS} rounds."
    )
    head = [about, "", FIGURES_HEAD, "|" + (FIGURES_HEAD.count("|") - 1) * "---|"]
    rows = [figure.row() for beams in result["rounds"] for figure in _figures(result, beams)]
    return "\n".join([*head, *rows])


def _figures(result: Raw, beams: str) -> list[Figure]:
    rounds = result["rounds"][beams]

    def rate(name: str) -> str:
        return f"{statistics.median(each[name] for each in rounds):,.0f} sentences/s"

    def ratio(name: str, floor: str) -> float:
        return float(statistics.median(each[name] / each[floor] for each in rounds))

    by = f"{beams} beam{'s' if beams != '1' else ''}"
    gain = f"{by}: {TOGETHER} sentences at once, over one after the other"
    floor = f"{by}: {CONNECTIONS} connections, a sentence each, by one worker, over a loop in process"
    looped = f"{rate('loop')}, {result['batches'][beams]} at a time"
    return [
        Figure(gain, rate("together"), ratio("together", "alone"), rate("alone"), 4),
        Figure(floor, rate("one_worker"), ratio("one_worker", "loop"), looped, 0.5),
    ]


def main() -> None:
    """Measure, and write the figures and the page's table."""
    publish("translation", measure, table, RESULTS, PAGE)


if __name__ == "__main__":
    typer.run(main)
