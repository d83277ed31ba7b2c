"""Figures through the service: start the real service on a models directory, and ask it over HTTP.

It knows the service's command and its HTTP interface, not its insides. Invariant: a figure measured here is what a
client gets, tokenizer, batching and runtime included.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from service.contract import manifest as contract
from service.errors import StartupError

START_LIMIT_S = 600.0  # an emulated processor takes minutes
POLL_S = 0.1
REQUEST_LIMIT_S = 600.0
ITEMS_PER_REQUEST = 256


class EvaluationError(StartupError):
    """The service did not start on the candidate model, or did not answer its requests."""


@contextmanager
def serving(models_dir: Path, python: Path = Path(sys.executable)) -> Iterator[str]:
    """Run `python -m service serve` on `models_dir`; yield its base URL once it is ready, and stop it afterwards.

    Settings of the surrounding environment (`BATON_*`) do not reach it.

    Raises: EvaluationError with the service's log when it ends or is not ready in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        log_file = Path(folder, "log")
        port = _free_port()
        command = [str(python), "-m", "service", "serve", "--models-dir", str(models_dir.resolve())]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
        with log_file.open("w") as log:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=Path(contract.__file__).parents[1],
                env={**environment, "BATON_STATE_DIR": folder},
                stdout=log,
                stderr=log,
            )
            try:
                url = f"http://127.0.0.1:{port}"
                _wait_until_ready(process, url, log_file)
                yield url
            finally:
                process.terminate()
                process.wait()


def _free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_file: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):  # until the port is open
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(POLL_S)
    raise EvaluationError(f"the service did not become ready on the candidate model:\n{log_file.read_text()}")


def ask(url: str, path: str, items_field: str, items: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
    """Post `items` in requests of bounded size; return the results in order.

    Raises: EvaluationError when a request, or any item of one, is refused.
    """
    results: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=REQUEST_LIMIT_S) as client:
        for start in range(0, len(items), ITEMS_PER_REQUEST):
            body = {items_field: list(items[start : start + ITEMS_PER_REQUEST]), **options}
            answer = client.post(path, json=body)
            if answer.is_error:
                raise EvaluationError(f"{path} answered {answer.status_code}: {answer.text}")
            results += answer.json()["results"]
    refused = [result for result in results if "error" in result]
    if refused:
        raise EvaluationError(f"{path} refused {len(refused)} of {len(items)} items, the first: {refused[0]['error']}")
    return results
