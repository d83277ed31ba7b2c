"""Sentences for translation: their tokenizers, pairs as ids, batches of like lengths.

It knows the tokenizers library, not data files or networks. Invariant: a text that was written with the target's
tokenizer decodes to itself, spaces and case included, once its characters are spelt alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.tasks.writer import NO_TARGET, Batch

UNKNOWN, START, END = "[UNK]", "[START]", "[END]"
START_ID, END_ID = 1, 2

Pair = tuple[str, str]

# Typists differ in these; nobody who reads does.
SPELLINGS = (
    ("[\u00ad\u200b]", ""),  # soft hyphen, space of no width
    ("[\u00a0\u2009\u202f]", " "),  # the spaces that French has before ! ? : ; and within « »
    ("[\u2018\u2019]", "'"),
)
# What merges stay within. A clitic ends with its apostrophe (l' | amour) and a hyphen begins what it ties (a | -t |
# -il); English keeps its contractions whole (don't).
SOURCE_WORDS = r" ?\p{L}+(?:'\p{L}+)*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
TARGET_WORDS = r" ?\p{L}+'?|-\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"


def make_normalizer() -> normalizers.Normalizer:
    """Return what spells the characters of a text alike."""
    spellings = [normalizers.Replace(Regex(pattern), spelling) for pattern, spelling in SPELLINGS]
    return normalizers.Sequence([normalizers.NFC(), *spellings])


def _learn(texts: Sequence[str], words: str, size: int) -> Tokenizer:
    """Learn pairs of bytes to merge (Sennrich et al., ACL 2016), so that no text has an unknown token."""
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = make_normalizer()
    pieces = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in (UNKNOWN, START, END)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def learn_source(texts: Sequence[str], size: int) -> Tokenizer:
    """Learn the tokenizer of what is read; it ends every text with END."""
    tokenizer = _learn(texts, SOURCE_WORDS, size)
    tokenizer.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, END_ID)])
    return tokenizer


def learn_target(texts: Sequence[str], size: int) -> Tokenizer:
    """Learn the tokenizer of what is written."""
    return _learn(texts, TARGET_WORDS, size)


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations as ids.

    Shapes: sources each [time], with END; targets each [1 + time + 1], START before and END behind.
    """

    sources: list[Tensor]
    targets: list[Tensor]

    @classmethod
    def of(cls, pairs: Sequence[Pair], source: Tokenizer, target: Tokenizer) -> Self:
        """Read the pairs."""
        read, written = zip(*pairs, strict=True)
        sources = [torch.tensor(encoding.ids) for encoding in source.encode_batch(list(read))]
        targets = [torch.tensor([START_ID, *each.ids, END_ID]) for each in target.encode_batch(list(written))]
        return cls(sources, targets)

    def __deepcopy__(self, memo: object) -> Self:
        """Share what nobody changes: averaging weights copies the module that holds it."""
        return self

    @property
    def longest_source(self) -> int:
        """The number of ids of the longest source."""
        return max(map(len, self.sources))

    def batches(self, tokens: int, shuffle: torch.Generator | None = None) -> list[Batch]:
        """Cut into batches of sources of one length, targets of like lengths, in random order if `shuffle` is given.
        A batch has at most `tokens` target tokens, padding included, or a single pair.

        Shapes: each sources [batch, source time], ids [batch, time] and the ids that follow them [batch, time], which
        are `NO_TARGET` beyond each target's end.
        """
        count = len(self.sources)
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for index in torch.randperm(count, generator=shuffle).tolist() if shuffle else range(count):
            alike[len(self.sources[index])].append(index)
        chunks: list[list[int]] = []
        for same in alike.values():
            chunk: list[int] = []
            for index in sorted(same, key=lambda index: len(self.targets[index])):
                if chunk and (len(chunk) + 1) * (len(self.targets[index]) - 1) > tokens:
                    chunks.append(chunk)
                    chunk = []
                chunk.append(index)
            chunks.append(chunk)
        if shuffle:
            chunks = [chunks[place] for place in torch.randperm(len(chunks), generator=shuffle).tolist()]
        return [self._stacked(chunk) for chunk in chunks]

    def _stacked(self, chunk: Sequence[int]) -> Batch:
        targets = [self.targets[index] for index in chunk]
        ids = pad_sequence([target[:-1] for target in targets], batch_first=True, padding_value=END_ID)
        following = pad_sequence([target[1:] for target in targets], batch_first=True, padding_value=NO_TARGET)
        return torch.stack([self.sources[index] for index in chunk]), ids, following
