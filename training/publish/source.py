"""What `export` is asked for on the command line: a function in a file of Python, and what it returns.

It knows files and functions, not what their modules compute. Invariant: what `read_source` returned are arguments that
`export_module` has.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import StartupError
from training.publish.foreign_module import export_module

GIVEN_BY_OPTIONS = {"name", "models_dir", "command"}
NAME = "__export__"  # of the file while it runs, as `__main__` is: its own could be that of another module
ARGUMENTS = inspect.signature(export_module).parameters.keys() - GIVEN_BY_OPTIONS


class SourceError(StartupError):
    """The file lacks the function, or it returns something else; the message says what would be right."""


def read_source(source: str) -> dict[str, Any]:
    """Run the file of "FILE.py:FUNCTION" as Python imports it, its folder first on the path, and call the function.

    Raises: SourceError; and whatever the file or the function raises.
    """
    path, colon, function = source.rpartition(":")
    file = Path(path)
    if not colon or not function.isidentifier() or file.suffix != ".py":
        raise SourceError(f"{source!r} must be a file and a function in it, as in model.py:build")
    if not file.is_file():
        raise SourceError(f"{file} is no file")
    spec = importlib.util.spec_from_file_location(NAME, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)  # where copies and pickles look for classes
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    build = getattr(module, function, None)
    if not callable(build):
        raise SourceError(f"{file} has no function {function}")
    built = build()
    if not isinstance(built, Mapping) or not {"module", "example"} <= built.keys() <= ARGUMENTS:
        found = f"a dict of {', '.join(map(str, built))}" if isinstance(built, Mapping) else f"a {type(built).__name__}"
        raise SourceError(
            f"{source} returns {found}; it must return a dict with module and example, and with any of "
            f"{', '.join(sorted(ARGUMENTS - {'module', 'example'}))}"
        )
    return dict(built)
