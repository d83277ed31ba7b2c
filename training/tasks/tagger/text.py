"""Words for the tagger: the treebank's sentences, a tokenizer that splits text as the treebank does, rows of ids.

It knows the tokenizers library and the formats of the data files, not networks. Invariant: training reads a word as the
service reads it, by the same tokenizer and the same characters.
"""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace
from tokenizers.pre_tokenizers import Split
from torch import Tensor

from service.contract.parts import Characters
from training.export.graph import Array

UNKNOWN, UNKNOWN_ID = "[UNK]", 0
NO_TARGET = -100  # of a word's later pieces; PyTorch's cross entropy leaves it out

RARE = 5  # a character that the training part holds less often is not in the alphabet

Sentence = list[tuple[str, str, str]]  # each word: as it is written, its part of speech (UPOS), the finer one (XPOS)
Batch = tuple[Tensor, Tensor]

SPELLINGS = (
    ("[`\u00b4\u2018\u2019]", "'"),
    ("[\u00ab\u00bb\u201c\u201d]", '"'),
)  # as typesetting has quotes, and as the vectors do
CLITICS = "s|ve|re|ll|d|m"
ABBREVIATIONS = (
    "mr|mrs|ms|dr|st|jr|sr|inc|co|corp|ltd|vs|etc|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|"
    "thur|fri|sat|gen|sen|reps?|rev|gov|prof|lt|col|ft|ave|blvd|attn|al|ext|vol|lb|oz|yrs|eg|ie|sec|approx|dept|est|"
    "fig|hon|maj|messrs|mt|pres|sgt|univ|assn|bros"
)
PREFIXES = (
    "e|co|non|re|pre|anti|multi|ex|sub|semi|mid|un|counter|inter|mis|vice|x|t|o|u|post|pro|neo|bi|de|super|ultra|over|"
    "under|micro|macro|mini|pseudo|quasi|trans|extra|intra|infra|cross|socio|psycho"
)
ENDINGS = "com|org|net|edu|gov|info|biz|co\\.uk|html?|php|pdf|docs?|xls|zip|jpe?g|url"
IN_ADDRESS = r"[^\s<>\"]*[^\s<>\".,;:!?')\]]"  # not the punctuation that follows it
# What is one word, in lower case, by the first pattern that fits. What none fits is white space.
WORDS = (
    rf"(?:https?://|www\.|mailto:){IN_ADDRESS}",
    r"[\w.+%-]*@[\w.-]*\w",
    rf"[\w~#!-]+(?:\.[\w-]+)*\.(?:{ENDINGS})\b(?:/{IN_ADDRESS})?",
    r"[\p{L}\d-]+(?:\.[\p{L}\d-]*\p{L}[\p{L}\d-]*){2,}(?!\.)",  # rec.food.cooking
    r"[<>]?[:;=8][-']?(?:[)(\]\[|/]+|[dpo]\b)|\(:|\^_+\^|<3|-_+-|[-=]+>|<[-=]+",  # :-) and arrows
    r"\b(?:can(?=not\b)|gon(?=na\b)|wan(?=na\b)|got(?=ta\b))",
    r"\w+(?=n't\b)|n't\b",
    rf"'(?:{CLITICS})\b|'\d\ds?\b",
    r"\b(?:\p{L}\.){2,}(?:\p{L}\b)?|\b\p{L}\.\p{L}\b|\b[\p{L}&&[^i]]\.|\bi\.(?=\s+\w)",  # U.S. and initials
    rf"\b(?:{ABBREVIATIONS})\.|\bno\.(?=\s*\d)",
    r"us[$]|\d*0's\b|[+#.]?\d+(?:[.,:/-]\d+)*(?:(?![ap]m\b)\w+\b)?",
    rf"\b(?:{PREFIXES})-\w+|\w+-(?:wise|esque|like)\b",
    r"\p{L}{1,3}&\p{L}{1,2}\b|\b\p{L}/\p{L}\b|\bw/(?:o|out)?\b|\p{L}+\*+\p{L}+",
    rf"\w+(?:'(?!(?:{CLITICS})\b)\w+)*",
    r"[.!?…]*[!?…][.!?…]*|([^\w\s])\1*",
)


def read_sentences(file: Path) -> list[Sentence]:
    """Read a treebank file: form TAB UPOS TAB XPOS a line, an empty line after each sentence."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        blocks = lines.read().strip("\n").split("\n\n")
    return [[_word(line) for line in block.split("\n")] for block in blocks]


def read_vectors(file: Path) -> dict[str, Array]:
    """Read vectors of words, the most frequent word first. Shapes: each [width] float16."""
    with np.load(file) as arrays:
        return dict(zip(arrays["words"].tolist(), arrays["vectors"], strict=True))


@dataclass(frozen=True)
class Treebank:
    """The sentences that training and its choices may see, and vectors of words from elsewhere."""

    train: list[Sentence]
    dev: list[Sentence]
    vectors: Mapping[str, Array]


def _word(line: str) -> tuple[str, str, str]:
    form, coarse, fine = line.split("\t")
    return form, coarse, fine


def make_tokenizer(words: Iterable[str]) -> Tokenizer:
    """Return a tokenizer of words that reads them in lower case: `words` have the ids from 1, any other has 0."""
    ids = {word: number for number, word in enumerate([UNKNOWN, *words])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    spellings = [Replace(Regex(pattern), spelling) for pattern, spelling in SPELLINGS]
    tokenizer.normalizer = normalizers.Sequence([Lowercase(), *spellings])
    tokenizer.pre_tokenizer = Split(Regex("|".join(WORDS)), "removed", invert=True)
    return tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """The words that the model knows, and what is known of them before training.

    The words of the training part that occur twice or more come first, the most frequent one at first. These have a
    vector of their own beside the one from elsewhere.

    Shapes: vectors [1 + words, width] float16, zero where there is none; counts [1 + words of the training part].
    """

    tokenizer: Tokenizer
    vectors: Tensor
    counts: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sentence], vectors: Mapping[str, Array]) -> Self:
        """Read the words of the sentences, then those of `vectors` that the tokenizer leaves whole."""
        blank = make_tokenizer(())
        forms = Counter(form for sentence in sentences for form, *_ in sentence)
        counts: Counter[str] = Counter()
        for form, count in forms.items():
            counts.update({piece: count * times for piece, times in Counter(pieces(blank, [form])).items()})
        own = {word: count for word, count in counts.most_common() if count > 1}
        words = [*own, *(word for word in vectors if word not in own and [*pieces(blank, [word])] == [word])]
        width = len(next(iter(vectors.values())))
        none = np.zeros(width, np.float16)
        table = np.stack([none, *(vectors.get(word, none) for word in words)])
        return cls(make_tokenizer(words), torch.from_numpy(table), torch.tensor([0, *own.values()]))


def pieces(tokenizer: Tokenizer, words: Sequence[str]) -> Iterator[str]:
    """Yield what the tokenizer makes of words, in its own spelling, before any vocabulary."""
    for word in words:
        found = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(word))
        yield from (piece for piece, _ in found)


def split_words(tokenizer: Tokenizer, sentences: Sequence[Sentence]) -> int:
    """Count the words that the tokenizer splits further."""
    return sum(len([*pieces(tokenizer, [form])]) > 1 for sentence in sentences for form, *_ in sentence)


def characters_of(sentences: Sequence[Sentence], width: int) -> Characters:
    """Return how words are spelt: the alphabet is what the sentences hold, the most frequent character first."""
    counts = Counter(character for sentence in sentences for form, *_ in sentence for character in form)
    alphabet = "".join(character for character, count in counts.most_common() if count >= RARE)
    return Characters(alphabet=alphabet, width=width)


class Speller:
    """Rows of ids for words, as the service makes them: of each piece its id, then those of its characters."""

    def __init__(self, tokenizer: Tokenizer, characters: Characters) -> None:
        self.tokenizer, self.width = tokenizer, characters.width
        self._ids = {character: number for number, character in enumerate(characters.alphabet, start=2)}

    def spell(self, words: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Return the rows, and each row's word. Shapes: rows [pieces, 1 + width] int64."""
        encoding = self.tokenizer.encode(words, is_pretokenized=True)
        places = [place for place in encoding.word_ids if place is not None]  # only special tokens have none
        rows = [
            [number, *self._characters(words[place][start:end])]
            for number, place, (start, end) in zip(encoding.ids, places, encoding.offsets, strict=True)
        ]
        return torch.tensor(rows), places

    def _characters(self, piece: str) -> list[int]:
        if len(piece) > self.width:
            begin = self.width // 2
            piece = piece[:begin] + piece[begin - self.width :]
        ids = [self._ids.get(character, 1) for character in piece]
        return ids + [0] * (self.width - len(ids))


@dataclass(frozen=True)
class Tags:
    """The names of what is predicted: parts of speech, and finer ones that help in training alone."""

    coarse: tuple[str, ...]
    fine: tuple[str, ...]

    @classmethod
    def of(cls, sentences: Sequence[Sentence]) -> Self:
        """Collect them from the sentences."""
        words = [word for sentence in sentences for word in sentence]
        return cls(tuple(sorted({coarse for _, coarse, _ in words})), tuple(sorted({fine for *_, fine in words})))


@dataclass(frozen=True)
class Sentences:
    """Sentences as ids, with both tags of each word at its first piece.

    Shapes: rows each [time, 1 + width]; targets each [time, 2].
    """

    rows: list[Tensor]
    targets: list[Tensor]

    @classmethod
    def of(cls, sentences: Sequence[Sentence], speller: Speller, tags: Tags) -> Self:
        """Read the sentences. A tag that `tags` does not have is no target."""
        coarse, fine = ({tag: number for number, tag in enumerate(names)} for names in (tags.coarse, tags.fine))
        rows, targets = [], []
        for sentence in sentences:
            steps, words = speller.spell([form for form, *_ in sentence])
            known = [[coarse.get(upos, NO_TARGET), fine.get(xpos, NO_TARGET)] for _, upos, xpos in sentence]
            later = [False, *(one == other for one, other in pairwise(words))]
            rows.append(steps)
            targets.append(
                torch.tensor(
                    [[NO_TARGET] * 2 if inside else known[word] for word, inside in zip(words, later, strict=True)]
                )
            )
        return cls(rows, targets)

    def __deepcopy__(self, memo: object) -> Self:
        """Share what nobody changes: averaging weights copies the module that holds it."""
        return self

    def batches(self, tokens: int, shuffle: torch.Generator | None = None) -> list[Batch]:
        """Cut into batches of sentences of one length, which are read two to three times as fast, in random order if
        `shuffle` is given. A batch has at most `tokens` tokens, or a single sentence.

        Shapes: each rows [batch, time, 1 + width] and targets [batch, time, 2].
        """
        count = len(self.rows)
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for index in torch.randperm(count, generator=shuffle).tolist() if shuffle else range(count):
            alike[len(self.rows[index])].append(index)
        chunks = []
        for length, same in sorted(alike.items()):
            size = max(tokens // length, 1)
            chunks += [same[start : start + size] for start in range(0, len(same), size)]
        if shuffle:
            chunks = [chunks[place] for place in torch.randperm(len(chunks), generator=shuffle).tolist()]
        return [(self._stacked(self.rows, chunk), self._stacked(self.targets, chunk)) for chunk in chunks]

    @staticmethod
    def _stacked(each: Sequence[Tensor], chunk: Sequence[int]) -> Tensor:
        return torch.stack([each[index] for index in chunk])
