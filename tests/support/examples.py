"""The calls that OpenAPI shows as examples, made.

As a program, `PYTHONPATH=.:tests:tests/support python tests/support/examples.py`, it records anew what is answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from conftest import ADMIN, ROOT, Server
from keyring import Keyring

from service.page.openapi import ANSWERS
from service.web.schema import A_STATE

KEY = ADMIN.header()
BEGINS = {"POST /v1/step": "begin", "POST /v1/generate": "prompt", "POST /v1/completions": "prompt"}
STATES = {"state", "state_token"}  # members that are tokens, or a word like READY
LONGEST_WORD = 40  # characters
ALONE = "answer"  # the name of the only example of a call that is asked nothing
UNLOAD = "POST /v2/repository/models/{name}/unload"  # has no example: a click must not take a model away


@dataclass
class Example:
    """One call: of the operation `POST /v1/...`, under the name that the example has there."""

    operation: str
    name: str
    path: str
    body: Any

    @property
    def wants_state(self) -> bool:
        return A_STATE in json.dumps(self.body)

    def make(self, client: httpx.Client, state: str = A_STATE) -> httpx.Response:
        """Make the call, with `state` where it wants one."""
        body = None if self.body is None else json.loads(json.dumps(self.body).replace(A_STATE, state))
        headers = KEY if "/repository/models/" in self.path else {}
        return client.request(self.operation.split()[0], self.path, json=body, headers=headers)


def examples(document: dict[str, Any]) -> Iterator[Example]:
    """Yield every example of the document, in its order: calls with all that they ask for."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            bodies = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
            parameters = {given["name"]: given.get("examples", {}) for given in operation.get("parameters", [])}
            asked = [*parameters.values(), *([bodies] if "requestBody" in operation else [])]
            for name in [ALONE] if not asked else [name for name in asked[0] if all(name in part for part in asked)]:
                values = {parameter: shown[name]["value"] for parameter, shown in parameters.items()}
                body = bodies[name]["value"] if bodies else None
                yield Example(f"{method.upper()} {path}", name, path.format(**values), body)


def make_all(client: httpx.Client) -> Iterator[tuple[Example, httpx.Response]]:
    """Make every call, and yield it with its answer; a state that one wants is of the last example that begins one."""
    state = A_STATE
    for example in examples(client.get("/openapi.json").json()):
        answer = example.make(client, state)
        if BEGINS.get(example.operation) == example.name:
            state = state_in(answer.json())
        yield example, answer


def state_in(answer: dict[str, Any]) -> str:
    """Return the first state of an answer: of a session's result, or of a choice."""
    first = answer.get("results", [answer])[0]
    state: str = (first["choices"][0] if "choices" in first else first)["state"]
    return state


def serve(state_dir: Path, models_dir: Path = ROOT / "models", keys: Keyring = ADMIN, **settings: str) -> Server:
    return Server(models_dir, state_dir, BATON_API_KEYS=keys.setting, **settings)


def without_states(content: Any) -> Any:
    """Return what an answer holds with a short word in the place of each state, which is long and says nothing."""
    if isinstance(content, list):
        return [without_states(part) for part in content]
    if not isinstance(content, dict):
        return content
    return {
        name: A_STATE if name in STATES and is_token(part) else without_states(part) for name, part in content.items()
    }


def is_token(part: Any) -> bool:
    return isinstance(part, str) and len(part) > LONGEST_WORD


def record() -> None:
    answers: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        server = serve(Path(folder), BATON_MAX_WAIT_MS="1000")  # as by default: it is shown
        for example, answer in make_all(server.client):
            answer.raise_for_status()
            if answer.headers.get("content-type") == "application/json":
                answers.setdefault(example.operation, {})[example.name] = without_states(answer.json())
        server.stop()
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    record()
