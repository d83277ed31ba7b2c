"""The servers that are measured: how each is started, what it is asked, and with which options it runs.

A new peer is a file in `apps/`, its requirements, and an entry of `SERVERS`. It knows commands and forms of requests,
not what is done with them. Invariant: `options` says what the command and the file in `apps/` set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from loadtests.models import GRAPH_FILE, STEP_MODEL, TEXT_MODEL, newest, text_of
from loadtests.peers import sessions
from loadtests.peers.apps import reader
from loadtests.peers.environments import SYSTEM_PYTHON, pinned, prepare
from loadtests.peers.processes import free_ports, running
from loadtests.peers.sessions import Session
from loadtests.peers.texts import LONGEST, Form, Ids
from loadtests.serving import Running, baton
from service import __version__
from service.launch import ROOT
from service.settings import Settings

CORES = len(os.sched_getaffinity(0))
APPS = "loadtests.peers.apps"


@dataclass(frozen=True)
class Place:
    """Where servers find the models, keep their environments, and write what they write."""

    models: Path
    cache: Path
    folder: Path


@dataclass(frozen=True)
class Environment:
    """The requirements, the package of them that is the peer, and the Python that it wants."""

    name: str
    package: str
    python: Path = Path(sys.executable)


@dataclass(frozen=True)
class Server:
    """One server: `form` is how it takes texts, `sessions` the ways in which it takes steps.

    `workers` are processes or instances, each of which runs the graph on so many `threads`.
    Command and variables may hold {bin} of the environment, {port}, and {grpc} and {metrics}, further ports.
    """

    title: str
    options: str
    command: tuple[str, ...]
    environment: Environment | None = None  # the project's own
    form: Form | None = None
    sessions: tuple[type[Session], ...] = ()
    workers: int = 1
    threads: int = CORES
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        if self.environment is None:
            return f"fastapi {metadata.version('fastapi')}, uvicorn {metadata.version('uvicorn')}"
        return f"{self.environment.package} {pinned(self.environment.name, self.environment.package)}"

    def ask(self, url: str) -> httpx.Response:
        return self.form.ask(url, [1]) if self.form else httpx.get(f"{url}/v2/health/ready")

    @contextmanager
    def start(self, place: Place) -> Iterator[Running]:
        """Run the server, installed if need be. Raises: PeerError."""
        own = self.environment
        folder = prepare(own.name, place.cache, own.python) / "bin" if own else Path(sys.executable).parent
        port, grpc, metrics = free_ports(3)
        values = {"bin": folder, "port": port, "grpc": grpc, "metrics": metrics}
        variables = {
            "PYTHONPATH": str(ROOT),
            reader.GRAPH: str(newest(TEXT_MODEL if self.form else STEP_MODEL, place.models) / GRAPH_FILE),
            reader.THREADS: str(self.threads),
            reader.WORKERS: str(self.workers),
            **{name: value.format(**values) for name, value in self.variables.items()},
        }
        command = [part.format(**values) for part in self.command]
        with running(command, variables, place.folder, port, self.ask) as server:
            yield server


@dataclass(frozen=True)
class Baton:
    """The service with default settings, asked in one of its ways."""

    title: str
    form: Form
    sessions: tuple[type[Session], ...]
    options, version = "default settings", __version__
    workers = None  # as many as the service says once it runs
    threads = Settings.model_fields["intra_op_threads"].default

    def start(self, place: Place) -> AbstractContextManager[Running]:
        return baton(place.models, place.folder)


def _sentiment(row: Ids) -> dict[str, Any]:
    return {"inputs": [text_of(row)], "scores": "all"}


def _scores(answer: Any) -> list[float]:
    return list(answer["results"][0]["scores"].values())


def _ids(row: Ids) -> dict[str, Any]:
    return {"ids": row}


def _probabilities(answer: Any) -> list[float]:
    found: list[float] = answer["probabilities"]
    return found


def _tensors(row: Ids, padded_to: int = 0) -> dict[str, Any]:
    ids = row + [0] * (padded_to - len(row))
    return {"inputs": [_tensor("ids", ids), _tensor("lengths", [len(row)])]}


def _tensor(name: str, values: Ids) -> dict[str, Any]:
    return {"name": name, "shape": [1, len(values)], "datatype": "INT32", "data": values}


def _padded(row: Ids) -> dict[str, Any]:
    return _tensors(row, LONGEST)


def _first_output(answer: Any) -> list[float]:
    found: list[float] = answer["outputs"][0]["data"]
    return found


def _plain(workers: int) -> Server:
    command = ("{bin}/python", "-m", "uvicorn", f"{APPS}.plain:app", "--port", "{port}", "--workers", str(workers))
    return Server(
        f"plain FastAPI, {workers} worker{'s' if workers > 1 else ''}",
        "uvloop, httptools, no access log; one `session.run` a request, in the framework's thread pool",
        (*command, "--loop", "uvloop", "--http", "httptools", "--no-access-log"),
        form=Form("/read", _ids, _probabilities),
        workers=workers,
        threads=1,
    )


INFER = "/v2/models/texts/infer"
OURS = {
    "baton": Baton(  # a text's words are its ids, so it tokenises besides
        "Baton, `/v1`",
        Form("/v1/sentiment", _sentiment, _scores),
        (sessions.BatonToken, sessions.BatonHeld, sessions.BatonStream),
    ),
    "baton-v2": Baton(
        "Baton, `/v2`",
        Form(f"/v2/models/{TEXT_MODEL}/infer", _tensors, _first_output),
        (sessions.BatonJson, sessions.BatonBinary),
    ),
}
TRITON = Environment("triton", "nvidia-pytriton", SYSTEM_PYTHON)
PYTRITON = Server(
    "Triton's core, Python backend",
    "PyTriton; batches of at most 64, of rows of one length; queue delay 1 ms",
    ("{bin}/python", "-m", f"{APPS}.pytriton_server", "{port}", "{grpc}", "{metrics}"),
    TRITON,
    form=Form(INFER, _tensors, _first_output),
)
SERVERS: dict[str, Server] = {
    "plain-1": _plain(1),
    "plain-cores": _plain(CORES),
    "triton": PYTRITON,
    "triton-padded": replace(
        PYTRITON,
        title=f"Triton's core, its client pads to {LONGEST}",
        options=f"the same, but each row comes padded to {LONGEST} ids, so that all share batches",
        workers=CORES,
        threads=1,
        form=Form(INFER, _padded, _first_output),
    ),
    "mlserver": Server(
        "MLServer",
        f"batches of at most 64, 3 ms; inference in the server's process; each row comes padded to {LONGEST} ids, for "
        "rows of different lengths in one batch are answered with 500",
        ("{bin}/mlserver", "start", str(Path(reader.__file__).parent / "mlserver")),
        Environment("mlserver", "mlserver"),
        form=Form(INFER, _padded, _first_output),
        variables={
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": "{grpc}",
            "MLSERVER_METRICS_PORT": "{metrics}",
        },
    ),
    "bentoml": Server(
        "BentoML",
        "batches of at most 64, latency at most 1 s",
        ("{bin}/bentoml", "serve", f"{APPS}.bentoml_service:Texts", "--host", "127.0.0.1", "--port", "{port}"),
        Environment("bentoml", "bentoml"),
        workers=CORES,
        threads=1,
        form=Form("/read", lambda row: {"ids": [row]}, lambda answer: answer[0]),
        variables={"BENTOML_DO_NOT_TRACK": "true"},
    ),
    "litserve": Server(
        "LitServe",
        "batches of at most 64, 3 ms; no access log",
        ("{bin}/python", "-m", f"{APPS}.litserve_server", "{port}"),
        Environment("litserve", "litserve"),
        workers=CORES,
        threads=1,
        form=Form("/predict", _ids, _probabilities),
    ),
    "ray": Server(
        "Ray Serve",
        "batches of at most 64, 3 ms; one proxy",
        ("{bin}/python", "-m", f"{APPS}.ray_app", "{port}"),
        Environment("ray", "ray"),
        workers=CORES,
        threads=1,
        form=Form("/", _ids, _probabilities),
        variables={"RAY_USAGE_STATS_ENABLED": "0"},
    ),
    "triton-sequence": Server(
        "Triton's sequence batcher, Python backend",
        "strategy `oldest`, no queue delay, batches of at most 64; all states in one array; flags of the request in "
        "place of control tensors; one HTTP thread",
        ("{bin}/python", "-m", f"{APPS}.triton_sequence", "{port}", "{grpc}"),
        TRITON,
        sessions=(sessions.TritonJson, sessions.TritonBinary),
        threads=1,
    ),
}
