"""The tokenizer of a foreign model, as its manifest names it.

It knows a tokenizer's file, not graphs. Invariant: what the file does not tell is among the doubts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from service.contract.files import sha256_of
from service.errors import ManifestError, StartupError
from service.model.vocabulary import last_id

NAME = "tokenizer.json"
MAX_LENGTH = 512  # stands in for what a person decides


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's `file`, the `text` of a manifest that names it, and how many `ids` there are up to its last."""

    file: Path
    text: Mapping[str, object]
    ids: int
    doubts: tuple[str, ...]


def read_tokens(file: Path) -> Tokens:
    """Read a tokenizer's file.

    Raises: StartupError when it cannot be read; ManifestError when it is no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_buffer(file.read_bytes())
    except OSError as failure:
        raise StartupError(f"--tokenizer {file} cannot be read: {failure.strerror}") from failure
    except Exception as failure:  # the library raises bare Exceptions
        raise ManifestError(file, "--tokenizer", f"the tokenizers library cannot load it: {failure}") from failure
    doubts = [f"text.max_length: the most tokens of a text; {MAX_LENGTH} stands in"]
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_token")
    if unknown is None and model.get("unk_id") is not None:  # a Unigram model tells its place
        unknown = tokenizer.id_to_token(model["unk_id"])
    if unknown is None:
        unknown = tokenizer.id_to_token(0)
        doubts.append(f"text.unknown_token: the tokenizer names none; {unknown}, its first, stands in")
    text = {"tokenizer": NAME, "sha256": sha256_of(file), "max_length": MAX_LENGTH, "unknown_token": unknown}
    return Tokens(file, text, last_id(tokenizer) + 1, tuple(doubts))
