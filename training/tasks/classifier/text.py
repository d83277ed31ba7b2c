"""Text for the classifiers: tokenizers for reviews and messages, labelled texts, and batches of like length.

It knows the tokenizers library, not networks or data files. Invariants: a text as people type it ("I don't like it.")
and as the treebank splits it ("i do n't like it .") have the same ids; no token spans white space, so a text cut there
has the ids of its parts, one after the other; every text has at least one token.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import NFC, NFKC, Lowercase, Replace
from tokenizers.pre_tokenizers import Metaspace, Split
from tokenizers.trainers import BpeTrainer, WordLevelTrainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PAD, UNKNOWN = "[PAD]", "[UNK]"
PAD_ID, UNKNOWN_ID = 0, 1
SPECIAL = [PAD, UNKNOWN]
# Begins each word, so that pieces inside words are others than those that begin one. The library's own prefix for these
# would number them in the order of a hash table: another vocabulary in every process, and checkpoints that fit none.
BEGIN = "\u2581"

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
# Every digit of a message is read as 0: how a number is written matters, not its value. Case is left out,
# since the few messages there are hold too little of each spelling (docs/training-log.md).
DIGITS = (r"\d", "0")
RUNS = r"\p{L}+|\d+|[^\p{L}\d\s]"

GRAM_LENGTHS = (3, 4, 5)

# A word of up to four pieces has a key, by which its number is looked up: a sum of the pieces' ids, each times a prime
# by its place from the word's end.
KEY_PRIMES, KEYS = (1, 7919, 104_729, 1_299_709), 1 << 17

Parts = Mapping[int, tuple[int, int]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def train_review_words(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Return a word tokenizer with the `vocabulary` most frequent words of `texts`; 0 pads, 1 is unknown."""
    tokenizer = _review(Tokenizer(WordLevel({PAD: PAD_ID, UNKNOWN: UNKNOWN_ID}, unk_token=UNKNOWN)))
    trainer = WordLevelTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_review_pieces(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Return a tokenizer whose words fall into pieces where they are rare; 0 pads, 1 is an unknown character.

    Source: byte pair encoding of words, Sennrich et al., ACL 2016.
    """
    return _trained_pieces(_review(Tokenizer(BPE(unk_token=UNKNOWN))), texts, vocabulary)


def train_message_pieces(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Return a tokenizer of pieces that reads every digit as 0; 0 pads, 1 is an unknown character."""
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([NFKC(), Lowercase(), Replace(Regex(DIGITS[0]), DIGITS[1])])
    tokenizer.pre_tokenizer = Split(Regex(RUNS), "removed", invert=True)
    return _trained_pieces(tokenizer, texts, vocabulary)


def _review(tokenizer: Tokenizer) -> Tokenizer:
    spellings = [Replace(Regex(pattern), spelling) for pattern, spelling in SPELLINGS]
    tokenizer.normalizer = normalizers.Sequence([NFC(), Lowercase(), *spellings])
    tokenizer.pre_tokenizer = Split(Regex(WORDS), "removed", invert=True)
    return tokenizer


def _trained_pieces(tokenizer: Tokenizer, texts: Sequence[str], vocabulary: int) -> Tokenizer:
    begin = Metaspace(BEGIN, prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, begin])
    trainer = BpeTrainer(vocab_size=vocabulary, min_frequency=2, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def words_of(tokenizer: Tokenizer, text: str) -> tuple[str, ...]:
    """Return the words that the tokenizer sees in a text, before any vocabulary."""
    found = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    return tuple(word.removeprefix(BEGIN) for word, _ in found)


def parts_of(tokenizer: Tokenizer) -> Parts:
    """Return the two pieces that each merged piece was made of, by id; nothing for a tokenizer of words."""
    model = json.loads(tokenizer.to_str())["model"]
    ids = model["vocab"]
    return {
        ids[left + right]: (ids[left], ids[right])
        for left, right in reversed(model.get("merges", ()))  # a piece that two merges make comes of the first
    }


def grams_of(tokenizer: Tokenizer, count: int) -> Tensor:
    """Return the runs of three to five characters in each token, as ids: what is spelt alike has some in common.

    The `count` runs that most tokens have are numbered from 1, in that order; 0 fills the rows, and a run that only one
    token has is left out.

    Shapes: returns [vocabulary, longest] int64. Source: Bojanowski et al., TACL 2017.
    """
    numbers = tokenizer.get_vocab()
    runs = [[] if token in SPECIAL else _runs(token) for token in sorted(numbers, key=numbers.__getitem__)]
    common = [run for run, having in Counter(run for own in runs for run in own).most_common(count) if having > 1]
    ids = {run: index for index, run in enumerate(common, start=1)}
    rows = [torch.tensor([ids[run] for run in own if run in ids], dtype=torch.int64) for own in runs]
    return pad_sequence(rows, batch_first=True)


def _runs(token: str) -> list[str]:
    places = ((start, start + length) for length in GRAM_LENGTHS for start in range(len(token) - length + 1))
    return list(dict.fromkeys(token[start:end] for start, end in places))


@dataclass(frozen=True)
class WordIndex:
    """How words are found again in pieces: which pieces begin a word, and each known word's number, by its key.

    Shapes: begins [vocabulary] bool; numbers [KEYS] int32, from 2 for the most frequent word, 1 where there is none.
    """

    begins: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, texts: Iterable[Sequence[int]], count: int) -> WordIndex:
        """Number the `count` most frequent words of texts in pieces; of two with the same key, the rarer is unknown."""
        pieces = tokenizer.get_vocab()
        beginning = {number for piece, number in pieces.items() if piece.startswith(BEGIN)}
        begins = torch.zeros(len(pieces), dtype=torch.bool)
        begins[sorted(beginning)] = True
        words = Counter(word for ids in texts for word in _words_in(ids, beginning))
        numbers = torch.full((KEYS,), UNKNOWN_ID, dtype=torch.int32)
        for number, (word, _) in enumerate(words.most_common(count), start=len(SPECIAL)):
            key = sum(prime * piece for prime, piece in zip(KEY_PRIMES, reversed(word), strict=False)) % KEYS
            if len(word) <= len(KEY_PRIMES) and numbers[key] == UNKNOWN_ID:
                numbers[key] = number
        return cls(begins, numbers)


def _words_in(ids: Sequence[int], beginning: set[int]) -> Iterator[tuple[int, ...]]:
    places = [0, *(place for place, piece in enumerate(ids) if place and piece in beginning), len(ids)]
    return (tuple(ids[start:end]) for start, end in pairwise(places))


def opened(ids: Sequence[int], parts: Parts, share: float, rng: random.Random) -> Iterator[int]:
    """Yield the ids with each merged piece, at the chance `share`, as the two it was made of, and these likewise."""
    for token in ids:
        if token in parts and rng.random() < share:
            yield from opened(parts[token], parts, share, rng)
        else:
            yield token


@dataclass(frozen=True)
class Texts:
    """Tokenized texts, the probability each should give to each label, and how much each counts in training.

    Shapes: targets [texts, labels] float32; weights [texts] float32.
    """

    ids: list[list[int]]
    targets: Tensor
    weights: Tensor

    @classmethod
    def of(cls, texts: Sequence[str], targets: Tensor, tokenizer: Tokenizer) -> Texts:
        """Tokenize; a text without any token is read as a single unknown token. All texts weigh the same."""
        ids = [encoding.ids or [UNKNOWN_ID] for encoding in tokenizer.encode_batch(texts)]
        return cls(ids, targets, torch.ones(len(ids)))

    def __deepcopy__(self, memo: object) -> Texts:
        """Share what nobody changes: averaging weights copies the module that holds it."""
        return self

    def opened(self, parts: Parts, share: float, seed: int) -> Texts:
        """Return the same texts with some pieces taken apart, so that the parts are learned too.

        Source: after BPE dropout, Provilkov et al., ACL 2020, which leaves merges out at random.
        """
        rng = random.Random(seed)
        return replace(self, ids=[list(opened(ids, parts, share, rng)) for ids in self.ids])

    def batches(self, rows: int, shuffle: torch.Generator | None = None) -> list[Batch]:
        """Cut into batches of `rows`, in random order if `shuffle` is given; the last one may be smaller.

        Most hold texts of one length, which are read two to three times as fast; only what a length has over is
        padded, among its like.

        Shapes: each ids [batch, time] int64, lengths [batch] int32, targets [batch, labels], weights [batch] float32.
        """
        count = len(self.ids)
        order = torch.randperm(count, generator=shuffle).tolist() if shuffle else range(count)
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for index in order:
            alike[len(self.ids[index])].append(index)
        full, over = [], []
        for _, same in sorted(alike.items()):
            whole = len(same) - len(same) % rows
            full += [same[start : start + rows] for start in range(0, whole, rows)]
            over += same[whole:]
        chunks = full + [over[start : start + rows] for start in range(0, len(over), rows)]
        if shuffle:
            chunks = [chunks[place] for place in torch.randperm(len(chunks), generator=shuffle).tolist()]
        return [self._batch(chunk) for chunk in chunks]

    def _batch(self, rows: list[int]) -> Batch:
        ids = pad_sequence([torch.tensor(self.ids[row]) for row in rows], batch_first=True, padding_value=PAD_ID)
        lengths = torch.tensor([len(self.ids[row]) for row in rows], dtype=torch.int32)
        return ids, lengths, self.targets[rows], self.weights[rows]
