"""Captions of images: words as tokens, captions as ids, batches of one length.

It knows the tokenizers library, not data files or networks. Invariant: the ids from 0 are those that a caption is
written with, its end first; what stands for other words, and what begins a caption, come behind them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Normalizer, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor

from training.tasks.writer import NO_TARGET, Batch

UNKNOWN, START, END = "[UNK]", "[START]", "[END]"
SPECIAL = (UNKNOWN, START)  # which are read, and never written
END_ID = 0


@dataclass(frozen=True)
class Image:
    """An image's vector and what people wrote of it. Shapes: vector [features]."""

    name: str
    vector: Tensor
    captions: tuple[str, ...]


def make_normalizer() -> Normalizer:
    """Return what captions are compared by, as their field does: in lower case, without punctuation."""
    return Normalizers([Lowercase(), Replace(Regex(r"[^\p{L}\p{N}\s]"), "")])


def learn_words(captions: Sequence[str], least: int) -> Tokenizer:
    """Learn the words that captions hold at least `least` times, the most frequent first."""
    normalizer, splitter = make_normalizer(), WhitespaceSplit()
    found = Counter(word for text in captions for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    words = [word for word, count in found.most_common() if count >= least]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate([END, *words, *SPECIAL])}, UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (END, *SPECIAL)])
    return tokenizer


@dataclass(frozen=True)
class Captions:
    """Captions as ids, and which image each belongs to.

    Shapes: vectors [images, features]; ids each [1 + time + 1], what begins a caption before and its end behind.
    """

    vectors: Tensor
    images: list[int]
    ids: list[Tensor]
    unknown: int

    @classmethod
    def of(cls, images: Sequence[Image], tokenizer: Tokenizer) -> Self:
        """Read the images' captions."""
        owners, texts = zip(
            *((place, text) for place, image in enumerate(images) for text in image.captions), strict=True
        )
        unknown, start = (tokenizer.token_to_id(token) for token in SPECIAL)
        assert unknown is not None
        ids = [torch.tensor([start, *encoding.ids, END_ID]) for encoding in tokenizer.encode_batch(list(texts))]
        vectors = torch.stack([image.vector for image in images])
        return cls(vectors, list(owners), ids, unknown)

    def __deepcopy__(self, memo: object) -> Self:
        """Share what nobody changes: averaging weights copies the module that holds it."""
        return self

    def batches(self, rows: int, shuffle: torch.Generator | None = None) -> list[Batch]:
        """Cut into batches of captions of one length, `rows` at most, in random order if `shuffle` is given.

        Shapes: each vectors [batch, features], ids [batch, time] and the ids that follow them [batch, time], which are
        `NO_TARGET` where the word is unknown.
        """
        count = len(self.ids)
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for index in torch.randperm(count, generator=shuffle).tolist() if shuffle else range(count):
            alike[len(self.ids[index])].append(index)
        chunks = [same[start : start + rows] for same in alike.values() for start in range(0, len(same), rows)]
        if shuffle:
            chunks = [chunks[place] for place in torch.randperm(len(chunks), generator=shuffle).tolist()]
        return [self._stacked(chunk) for chunk in chunks]

    def _stacked(self, chunk: Sequence[int]) -> Batch:
        ids = torch.stack([self.ids[index] for index in chunk])
        following = ids[:, 1:].masked_fill(ids[:, 1:] == self.unknown, NO_TARGET)
        return self.vectors[[self.images[index] for index in chunk]], ids[:, :-1], following
