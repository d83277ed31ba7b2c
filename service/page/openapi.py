"""The OpenAPI document behind `/docs`: FastAPI's, with the answers that were recorded of its examples.

It knows the document's form, not what is called. Invariants: an answer stands beside its example under the same name,
as the models that come along gave it (a test asks them again); no example is of a model that is not served.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

ANSWERS = Path(__file__).parent / "recorded" / "answers.json"
NO_ERRORS_OF_OURS = ("HTTPValidationError", "ValidationError")


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with the recorded answers, and without the errors that FastAPI would have answered."""
    answers: dict[str, dict[str, Any]] = json.loads(ANSWERS.read_text())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            if NO_ERRORS_OF_OURS[0] in str(responses.get("422")):
                del responses["422"]
            recorded = answers.get(f"{method.upper()} {path}")
            if recorded is not None:
                examples = {name: {"value": answer} for name, answer in recorded.items()}
                responses["200"]["content"]["application/json"]["examples"] = examples
    for name in NO_ERRORS_OF_OURS:
        document["components"]["schemas"].pop(name, None)
    return document


def leave_out_unserved(document: dict[str, Any], served: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Return a completed document without the examples of models, or versions of them, that are not `served`."""
    paths = {
        path: {method: _of_served(operation, served) for method, operation in operations.items()}
        for path, operations in document["paths"].items()
    }
    return {**document, "paths": paths}


def _of_served(operation: dict[str, Any], served: Mapping[str, Collection[str]]) -> dict[str, Any]:
    unserved = [
        name
        for name, (model, version) in _models(operation).items()
        if model not in served or version not in (None, *served[model])
    ]
    if unserved:
        operation = deepcopy(operation)
        for part in _parts(operation):
            for name in unserved:
                part["examples"].pop(name, None)
            if not part["examples"]:
                del part["examples"]
    return operation


def _models(operation: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Return the model and version, where one is named, of each example: of the path, or what answered it."""
    models: dict[str, str] = {}
    versions: dict[str, str] = {}
    for part in _parts(operation):
        values = {name: example["value"] for name, example in part["examples"].items()}
        match part.get("name"):
            case "name":
                models |= values
            case "version":
                versions |= values
            case None:
                models |= {name: value["model"] for name, value in values.items() if "model" in value}
    return {name: (model, versions.get(name)) for name, model in models.items()}


def _parts(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of an operation that have examples of calls: parameters, body and answer."""
    both = (operation.get("requestBody", {}), operation["responses"]["200"])
    contents = [part.get("content", {}).get("application/json", {}) for part in both]
    return [part for part in (*operation.get("parameters", []), *contents) if "examples" in part]
