"""How a model reads text: its tokenizer, and the ids that a step holds.

It knows tokenizers and what the manifest says of texts, not rows or requests. Invariant: a text gives the
same ids alone and among others.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np

# A batch of texts is tokenised on its model's thread: the library's own threads would want the cores that runs, the
# event loop and other workers have.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from tokenizers import Encoding, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from service.contract.parts import Characters, Text
from service.errors import ManifestError, ModelFailed
from service.model.onnx_session import Array

log = logging.getLogger("baton.vocabulary")

PADDING, UNKNOWN, FIRST = 0, 1, 2  # ids of characters
TOKENS_KEPT = 2**15  # tokens whose characters' ids are remembered: most words of a language's texts
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a byte as a token of its own, in vocabularies that fall back on bytes
UNFINISHED = "\ufffd"  # how tokenizers write bytes that are no character

Words = Sequence[str]


@contextmanager
def without_panics() -> Iterator[None]:
    """Raise an Exception where the library panics, which would end a thread: its PanicException is none."""
    try:
        yield
    except BaseException as failure:
        if type(failure).__name__ != "PanicException":
            raise
        raise RuntimeError(f"the tokenizers library panicked: {failure}") from failure


@dataclass(frozen=True)
class Vocabulary:
    """A model's tokenizer, the id of unknown tokens, and how characters become ids, where they do."""

    tokenizer: Tokenizer
    unknown_id: int
    characters: Characters | None = None

    @cached_property
    def last_id(self) -> int:
        return last_id(self.tokenizer)

    def unknown_ratio(self, ids: list[int]) -> float:
        """Return the share of `ids` (at least one) that are unknown."""
        return ids.count(self.unknown_id) / len(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out.

        Raises: ModelFailed where the library fails.
        """
        try:
            with without_panics():
                text: str = self.tokenizer.decode(ids)
        except Exception as failure:  # the library raises bare Exceptions
            log.exception("ids could not be made text")
            raise ModelFailed("the tokenizer fails on what was found; the log has the cause") from failure
        return text

    @without_panics()
    def name(self, token: int, before: Sequence[int]) -> str:
        """Return what a token adds to the text of those `before`; of bytes that are no character what they are, as
        `bytes:\\xe2`.
        """
        alone, text, whole = (
            self.tokenizer.decode(ids, skip_special_tokens=False) for ids in ([token], [*before], [*before, token])
        )
        if UNFINISHED in alone:
            own = _bytes(self.own_name(token))
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in own)
        added = whole[len(text) :]
        return alone if UNFINISHED in added else added  # it is no part of the bytes before, which are no character

    def own_name(self, token: int) -> str:
        """Return a token as the vocabulary has it, and an id that it does not have as a number."""
        return self.tokenizer.id_to_token(token) or str(token)

    @without_panics()
    def encode(self, texts: Sequence[str | Words], *, marked: bool, placed: bool) -> list[Encoding]:
        """Tokenise texts, or texts that came split into words; with `marked` their begin and end are tokens as well,
        with `placed` each token has its place.

        Raises: Exception, the library's own, for a text that it fails on.
        """
        encode = self.tokenizer.encode_batch if placed else self.tokenizer.encode_batch_fast
        split = [not isinstance(text, str) for text in texts]
        encodings = {
            kind: iter(
                encode(
                    [text for text, words in zip(texts, split, strict=True) if words is kind],
                    is_pretokenized=kind,
                    add_special_tokens=marked,
                )
            )
            for kind in set(split)
        }
        return [next(encodings[words]) for words in split]

    def steps(self, text: str | Words, encoding: Encoding, most: int, dtype: str) -> Array:
        """Return what the first `most` tokens of a text are to the model.

        Shapes: [tokens], or [tokens, 1 + width] where characters are read.
        """
        ids = np.array(encoding.ids[:most], dtype)
        if self.characters is None:
            return ids
        spelled = [self._spelling(token) for token in self.spans(text, encoding)[:most]]
        return np.concatenate([ids[:, None], np.array(spelled, dtype)], axis=1)

    def spans(self, text: str | Words, encoding: Encoding) -> list[str]:
        """Return each token as it stands in the text."""
        if isinstance(text, str):
            return [text[start:end] for start, end in encoding.offsets]
        places = zip(encoding.word_ids, encoding.offsets, strict=True)
        return ["" if word is None else text[word][start:end] for word, (start, end) in places]

    def _spelling(self, token: str) -> list[int]:
        assert self.characters is not None
        width = self.characters.width
        if len(token) > width:
            token = token[: width // 2] + token[width // 2 - width :]
        return self._spelled(token)

    @cached_property
    def _spelled(self) -> Callable[[str], list[int]]:
        """Makes the ids of a token that is no longer than the width, and remembers those of frequent tokens."""
        assert self.characters is not None
        numbers = {each: FIRST + place for place, each in enumerate(self.characters.alphabet)}
        width = self.characters.width

        @lru_cache(maxsize=TOKENS_KEPT)
        def spell(token: str) -> list[int]:
            return [numbers.get(character, UNKNOWN) for character in token] + [PADDING] * (width - len(token))

        return spell


def last_id(tokenizer: Tokenizer) -> int:
    """Return the largest id of a tokenizer, whose ids may have gaps; -1 where it has none."""
    return max(tokenizer.get_vocab().values(), default=-1)


def _bytes(token: str) -> bytes:
    """Return the bytes that a token stands for: one as `<0xE2>`, or each as a character of its own."""
    if BYTE.fullmatch(token):
        return bytes.fromhex(token[3:-1])
    own = _byte_characters()
    return bytes(own[each] for each in token) if own.keys() >= {*token} else token.encode()


@cache
def _byte_characters() -> dict[str, int]:
    """Return the byte that each character of byte-level tokens stands for: those that can be printed stand for
    themselves, and for the others, in their order, the first characters behind these."""
    characters = sorted(ByteLevel.alphabet())
    printed = {each: ord(each) for each in characters if ord(each) < 256}
    left = sorted({*range(256)} - {*printed.values()})
    return printed | dict(zip(characters[len(printed) :], left, strict=True))


def read_vocabulary(file: Path, text: Text, content: bytes) -> Vocabulary:
    """Return the vocabulary that the tokenizer's file holds in `content`; `file` is the manifest, which describes it in
    `text`.

    Raises: ManifestError.
    """
    try:
        with without_panics():
            tokenizer = Tokenizer.from_buffer(content)
    except Exception as failure:  # the library raises bare Exceptions
        raise ManifestError(file, "text.tokenizer", f"the tokenizers library cannot load it: {failure}") from failure
    tokenizer.no_padding()
    tokenizer.no_truncation()
    unknown_id = tokenizer.token_to_id(text.unknown_token)
    if unknown_id is None:
        message = f"{text.unknown_token!r} is not in the vocabulary of {text.tokenizer}"
        raise ManifestError(file, "text.unknown_token", message)
    return Vocabulary(tokenizer, unknown_id, text.characters)
