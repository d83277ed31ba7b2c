"""Tiny models that generate: over characters, over bytes, and over ids that are no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny import GraphBuilder, state, tensor, text_settings, write_model
from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, Split

LETTERS = "\n abcdefg."
START, END = 0, LETTERS.index(".")
FEEDBACK = {"kind": "categorical", "output": "probabilities", "form": "probabilities", "start": START}


def letters(alphabet: str = LETTERS) -> Tokenizer:
    """Each character is a token, and tokens are written without anything between them."""
    vocabulary = {character: i for i, character in enumerate((*alphabet, "[UNK]"))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def octets() -> Tokenizer:
    """Each byte is a token."""
    vocabulary = {character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE({**vocabulary, "[UNK]": len(vocabulary)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def fallback() -> Tokenizer:
    """Some words and letters are tokens, and of what is neither each byte."""
    own = ["[UNK]", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b", "▁c", "é"]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(own)}, [], byte_fallback=True, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def spaced() -> Tokenizer:
    """Each word is a token, that has the space before it."""
    own = ["[PAD]", "[UNK]", "▁hello", "▁world", "▁a", "▁b"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(own)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def generator(
    root: Path, *, ids: int = len(LETTERS), form: str = "probabilities", mute: int | None = None, **changes: Any
) -> Path:
    """A GRU over ids that gives the probability of each to come next, or its logit; `form` says which.

    After the id `mute` none is likely.
    """
    build = GraphBuilder(7, lengths=changes.get("lengths", "lengths") or "")
    (embedded,) = build.add("Gather", [build.weight(ids + 1, 3), "ids"])
    y, h = build.recurrent("GRU", embedded, 3, 4, ["h"], linear_before_reset=1)
    logits = build.dense(y, 4, ids)
    made = logits if form == "logits" else build.add("Softmax", [logits], axis=-1)[0]
    if mute is not None:
        kept = (np.arange(ids + 1) != mute).astype(np.float32)[:, None]
        (made,) = build.add("Mul", [made, *build.add("Gather", [build.constant(kept), "ids"])])
    manifest = {
        "name": "generator",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("ids", "int64", "batch", "time")],
        "outputs": [tensor("probabilities", "float32", "batch", "time", ids)],
        "states": [state("h", 1, "batch", 4)],
        "text": text_settings(polarity=None),
        "feedback": {**FEEDBACK, "form": form},
    }
    outputs = {"probabilities": made, "h_out": h}
    return write_model(root, build, outputs, **{"tokenizer": letters(), **manifest, **changes})


def ending(root: Path) -> Path:
    """The generator, whose texts end with a full stop."""
    return generator(root, name="ending", feedback={**FEEDBACK, "end": END})


def beginless(root: Path) -> Path:
    """The generator, that names no id to start with."""
    return generator(root, name="beginless", feedback={**FEEDBACK, "start": None})


def muted(root: Path) -> Path:
    """The generator, that holds nothing likely after a "g"."""
    return generator(root, name="muted", mute=LETTERS.index("g"))


def ids_alone(root: Path) -> Path:
    """The generator of ids that are no text."""
    return generator(root, name="ids-alone", text=None)


def octet_writer(root: Path) -> Path:
    """A generator of texts whose characters may have several ids."""
    return generator(root, name="octets", ids=257, tokenizer=octets())


def separators(root: Path) -> Path:
    """A generator of texts with what some take for the end of a line."""
    return generator(root, name="separators", tokenizer=letters("\n a\u2028\x85c\u2029\x0c."))


def fallback_writer(root: Path) -> Path:
    """A generator of texts most of whose ids are bytes, which seldom are characters."""
    return generator(root, name="fallback", ids=261, tokenizer=fallback())


def word_writer(root: Path) -> Path:
    """A generator of words."""
    return generator(root, name="words", ids=6, tokenizer=spaced())


def all_writers(root: Path) -> Path:
    for write in (
        generator,
        ending,
        beginless,
        muted,
        ids_alone,
        octet_writer,
        separators,
        fallback_writer,
        word_writer,
    ):
        write(root)
    return root
