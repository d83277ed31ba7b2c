"""Tiny models that give something for each step, or label a sequence: taggers, transformers, classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession
from tiny import WORDS, GraphBuilder, state, tensor, text_settings, write_model
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import NFKC, BertNormalizer, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.trainers import BpeTrainer

TAGS = ["NOUN", "VERB", "X"]
KINDS = ["low", "high"]
PIECES = ("[PAD]", "[UNK]", "[CLS]", "un", "##aff", "##able", "a", "good", "film", "##s", "!", "e")
ALPHABET = "abdfgilmoGé😀"
WIDTH = 5
SAMPLE_RATE = 100


def tagger(root: Path, *, live: bool = False, **changes: Any) -> Path:
    """A GRU over words and the characters of each, bidirectional unless `live`; scores of three tags."""
    build = GraphBuilder(11)
    parts = []
    for start, end, size in ((0, 1, len(WORDS)), (1, 1 + WIDTH, len(ALPHABET) + 2)):
        places = [build.constant(np.array([place], np.int64)) for place in (start, end, 2)]
        (ids,) = build.add("Slice", ["ids", *places])
        (embedded,) = build.add("Gather", [build.weight(size, 3), ids])
        shape = build.constant(np.array([0, 0, 3 * (end - start)], np.int64))
        parts.append(build.add("Reshape", [embedded, shape])[0])
    (x,) = build.add("Concat", parts, axis=2)
    more: dict[str, Any] = {} if live else {"direction": "bidirectional"}
    y, h = build.recurrent("GRU", x, 3 + 3 * WIDTH, 4, ["h"] if live else [], linear_before_reset=1, **more)
    (scores,) = build.add("Softmax", [build.dense(y, 4 if live else 8, len(TAGS))], axis=-1)
    manifest: dict[str, Any] = {
        "name": "tagger",
        "task": "tag",
        "streamable": live,
        "states": [state("h", 1, "batch", 4)] if live else [],
        "inputs": [tensor("ids", "int32", "batch", "time", 1 + WIDTH)],
        "outputs": [tensor("scores", "float32", "batch", "time", len(TAGS), labels=TAGS)],
        "text": text_settings(polarity=None, characters={"alphabet": ALPHABET, "width": WIDTH}),
    }
    return write_model(root, build, {"scores": scores, **({"h_out": h} if live else {})}, **{**manifest, **changes})


def pieces() -> Tokenizer:
    """WordPiece, which splits words and tells case, accents and forms apart no more."""
    tokenizer = Tokenizer(WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = Sequence([NFKC(), BertNormalizer(lowercase=True)])
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def octets() -> Tokenizer:
    """Byte-level BPE, in which a character may be several pieces, and white space belongs to the word after it."""
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=270, special_tokens=["[UNK]"], initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(["a good good film film"], trainer)
    return tokenizer


def live_tagger(root: Path, tokenizer: Tokenizer | None = None, **changes: Any) -> Path:
    """A GRU in one direction over the pieces of words; its state is carried."""
    tokenizer = tokenizer or pieces()
    build = GraphBuilder(12)
    (embedded,) = build.add("Gather", [build.weight(tokenizer.get_vocab_size(), 3), "ids"])
    y, h = build.recurrent("GRU", embedded, 3, 4, ["h"], linear_before_reset=1)
    (scores,) = build.add("Softmax", [build.dense(y, 4, len(TAGS))], axis=-1)
    manifest = {
        "name": "tagger-live",
        "task": "tag",
        "streamable": True,
        "inputs": [tensor("ids", "int64", "batch", "time")],
        "outputs": [tensor("scores", "float32", "batch", "time", len(TAGS), labels=TAGS)],
        "states": [state("h", 1, "batch", 4)],
        "text": text_settings(polarity=None),
    }
    made = {"scores": scores, "h_out": h}
    return write_model(root, build, made, tokenizer=tokenizer, **{**manifest, **changes})


def cleaner(
    root: Path, *, samples: int = 1, live: bool = False, rate: int | None = SAMPLE_RATE, **changes: Any
) -> Path:
    """A GRU that gives as many numbers as it takes in each step; bidirectional unless `live`.

    A step of one sample has no axis for it.
    """
    build = GraphBuilder(13 + samples)
    x = build.add("Unsqueeze", ["x", build.constant(np.array([2], np.int64))])[0] if samples == 1 else "x"
    more: dict[str, Any] = {} if live else {"direction": "bidirectional"}
    y, h = build.recurrent("GRU", x, samples, 4, ["h"] if live else [], linear_before_reset=1, **more)
    made = build.dense(y, 4 if live else 8, samples)
    if samples == 1:
        (made,) = build.add("Squeeze", [made, build.constant(np.array([2], np.int64))])
    sizes = [] if samples == 1 else [samples]
    manifest: dict[str, Any] = {
        "name": "cleaner",
        "task": "transform",
        "streamable": live,
        "inputs": [tensor("x", "float32", "batch", "time", *sizes)],
        "outputs": [tensor("clean", "float32", "batch", "time", *sizes)],
        "states": [state("h", 1, "batch", 4)] if live else [],
    }
    if rate is not None:
        manifest["signal"] = {"sample_rate": rate}
    return write_model(root, build, {"clean": made, **({"h_out": h} if live else {})}, **{**manifest, **changes})


def widener(root: Path) -> Path:
    """A dense layer that makes a row of two numbers of each number."""
    build = GraphBuilder(17)
    (x,) = build.add("Unsqueeze", ["x", build.constant(np.array([2], np.int64))])
    manifest: dict[str, Any] = {
        "name": "widener",
        "task": "transform",
        "streamable": False,
        "inputs": [tensor("x", "float32", "batch", "time")],
        "outputs": [tensor("rows", "float32", "batch", "time", 2)],
        "states": [],
    }
    return write_model(root, build, {"rows": build.dense(x, 1, 2)}, **manifest)


def listener(
    root: Path, *, samples: int = 4, live: bool = False, rate: int | None = SAMPLE_RATE, **changes: Any
) -> Path:
    """A GRU over frames of a signal, or rows, with scores of two labels: after each step if `live`, else for the
    whole."""
    build = GraphBuilder(21)
    y, h = build.recurrent("GRU", "x", samples, 4, ["h"] if live else [], linear_before_reset=1)
    (last,) = (y,) if live else build.add("Squeeze", [h, build.constant(np.array([0], np.int64))])
    (scores,) = build.add("Softmax", [build.dense(last, 4, len(KINDS))], axis=-1)
    manifest: dict[str, Any] = {
        "name": "listener",
        "task": "classify",
        "streamable": live,
        "inputs": [tensor("x", "float32", "batch", "time", samples)],
        "outputs": [tensor("scores", "float32", "batch", *(["time"] if live else []), len(KINDS), labels=KINDS)],
        "states": [state("h", 1, "batch", 4)] if live else [],
    }
    if rate is not None:
        manifest["signal"] = {"sample_rate": rate}
    return write_model(root, build, {"scores": scores, **({"h_out": h} if live else {})}, **{**manifest, **changes})


def run(root: Path, name: str, **feeds: np.ndarray) -> np.ndarray:
    """Return what the first output of a model is for one row, by ONNX Runtime alone; new sessions have zeros."""
    session = InferenceSession(root / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    given = {node.name: node for node in session.get_inputs()}
    row = {key: value[None] for key, value in feeds.items()}
    row["lengths"] = np.array([len(*feeds.values())], np.int32)
    row |= {key: np.zeros((1, 1, 4), np.float32) for key in given if key == "h"}
    return session.run(None, row)[0][0]


def all_sequences(root: Path) -> Path:
    """Write one model of each kind and return `root`."""
    tagger(root)
    tagger(root, live=True, name="speller-live")
    live_tagger(root)
    live_tagger(root, octets(), name="octets")
    cleaner(root)
    cleaner(root, samples=4, name="cleaner-frames")
    cleaner(root, samples=4, live=True, name="cleaner-live")
    cleaner(root, samples=3, rate=None, name="rows")
    listener(root)
    listener(root, live=True, name="listener-live")
    listener(root, samples=2, rate=None, name="rows-kind")
    return root
