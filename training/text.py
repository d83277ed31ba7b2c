"""Text for the sentiment models: the word tokenizer, labelled phrases, and batches of like length.

It knows the SST-2 files' format and the tokenizers library, not networks. Invariants: a text as people type it ("I
don't like it.") and as the treebank splits it ("i do n't like it .") have the same ids; one token is one word, clitic
or mark; a text cut at white space has the ids of its parts, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import WordLevelTrainer
from torch import Tensor

PAD, UNKNOWN = "[PAD]", "[UNK]"
PAD_ID, UNKNOWN_ID = 0, 1
LABELS = ("negative", "positive")
POLARITY = (-1.0, 1.0)
POOL_BATCHES = 50

# How the treebank writes brackets and quotes, how typesetting does, and the one spelling that the vocabulary keeps.
SPELLINGS = [
    ("[`\u00b4\u2018\u2019]", "'"),
    ("[\u00ab\u00bb\u201c\u201d]|''", '"'),
    ("-lrb-", "("),
    ("-rrb-", ")"),
    ("\u2026", "..."),
    ("[\u2013\u2014]", "--"),
    (r"\bcannot\b", "can not"),
]
WORDS = r"\w+(?=n't\b)|n't\b|'(?:s|ve|re|ll|d|m)\b|\w+|\.\.\.|--|[^\w\s]"


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Return a word tokenizer with the `vocabulary` most frequent words of `texts`; 0 pads, 1 is unknown."""
    tokenizer = Tokenizer(WordLevel({PAD: PAD_ID, UNKNOWN: UNKNOWN_ID}, unk_token=UNKNOWN))
    spellings = [Replace(Regex(pattern), spelling) for pattern, spelling in SPELLINGS]
    tokenizer.normalizer = Sequence([NFC(), Lowercase(), *spellings])
    tokenizer.pre_tokenizer = Split(Regex(WORDS), "removed", invert=True)
    trainer = WordLevelTrainer(vocab_size=vocabulary, special_tokens=[PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def read_phrases(file: Path) -> tuple[list[str], list[int]]:
    """Read a treebank file: a header, then label TAB text. Returns texts and labels, 1 for positive."""
    lines = file.read_text(encoding="utf-8").splitlines()[1:]
    pairs = [line.split("\t", 1) for line in lines]
    return [text for _, text in pairs], [int(label) for label, _ in pairs]


@dataclass(frozen=True)
class Phrases:
    """Tokenized texts and their labels."""

    ids: list[list[int]]
    labels: list[int]

    @classmethod
    def of(cls, file: Path, tokenizer: Tokenizer) -> Phrases:
        """Read a treebank file; a text without any token is read as one unknown word."""
        texts, labels = read_phrases(file)
        return cls([encoding.ids or [UNKNOWN_ID] for encoding in tokenizer.encode_batch(texts)], labels)

    def batches(self, rows: int, shuffle: torch.Generator | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Cut into batches of like length, in random order if `shuffle` is given.

        Shapes: each ids [batch, time] int64, lengths [batch] int32, labels [batch] int64.
        """
        count = len(self.ids)
        order = torch.randperm(count, generator=shuffle).tolist() if shuffle else range(count)
        pool = rows * POOL_BATCHES
        ordered = [
            index
            for start in range(0, count, pool)
            for index in sorted(order[start : start + pool], key=lambda index: len(self.ids[index]))
        ]
        chunks = [ordered[start : start + rows] for start in range(0, count, rows)]
        if shuffle:
            chunks = [chunks[place] for place in torch.randperm(len(chunks), generator=shuffle).tolist()]
        return [self._batch(chunk) for chunk in chunks]

    def _batch(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(self.ids[row]) for row in rows], batch_first=True, padding_value=PAD_ID
        )
        lengths = torch.tensor([len(self.ids[row]) for row in rows], dtype=torch.int32)
        return ids, lengths, torch.tensor([self.labels[row] for row in rows])
