"""Figures through the service: start the real service on a models directory, and ask it over HTTP.

It knows the service's command and its HTTP interface, not its insides. Invariant: a figure measured here is what a
client gets, tokenizer, batching and runtime included.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.errors import StartupError
from service.launch import SERVE, launch

REQUEST_LIMIT_S = 600.0
ITEMS_PER_REQUEST = 256
START_LIMIT_S = 600.0  # an emulated processor takes minutes


class EvaluationError(StartupError):
    """The service did not start on the candidate model, or did not answer its requests."""


@contextmanager
def serving(models_dir: Path, python: Path = Path(sys.executable)) -> Iterator[str]:
    """Run `python -m service serve` on `models_dir`; yield its base URL once it is ready, and stop it afterwards.

    Settings of the surrounding environment (`BATON_*`) do not reach it.

    Raises: EvaluationError with the service's log when it ends or does not listen in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = {"BATON_MODELS_DIR": str(models_dir.resolve()), "BATON_STATE_DIR": folder, "BATON_PORT": "0"}
        try:
            process, url = launch(Path(folder, "log"), own, [str(python), *SERVE[1:]], limit_s=START_LIMIT_S)
        except StartupError as failure:
            raise EvaluationError(f"the service does not start on the candidate model: {failure}") from None
        try:
            yield url
        finally:
            process.terminate()
            process.wait()


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
