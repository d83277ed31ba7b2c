"""What stands at paths, some of which hold parameters, as `/models/{name}`.

It knows paths, not what stands there. Invariant: a path without parameters is found before one with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from starlette.routing import compile_path

T = TypeVar("T")


class Found(NamedTuple, Generic[T]):
    """What stands at a path, the path as it was declared, and what its parameters are."""

    value: T
    declared: str
    parameters: Mapping[str, str]


class Paths(Generic[T]):
    """Looks up what stands at a path of `declared`."""

    def __init__(self, declared: Mapping[str, T]) -> None:
        self._plain = {path: Found(value, path, {}) for path, value in declared.items() if "{" not in path}
        held = {path: value for path, value in declared.items() if "{" in path}
        self._patterns = [(compile_path(path)[0], path, value) for path, value in held.items()]

    def find(self, path: str) -> Found[T] | None:
        plain = self._plain.get(path)
        if plain is not None:
            return plain
        for pattern, declared, value in self._patterns:
            if match := pattern.match(path):
                return Found(value, declared, match.groupdict())
        return None
