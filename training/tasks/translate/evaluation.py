"""The translator's figures beside their floor: how near its translations of a part come to people's.

It knows sentences with their references, and how to ask a running service; what serves there it does not.
Invariant: every sentence of a part is asked once, whole, and compared with all of its references.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from tokenizers import Regex
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import Split

from service.contract.provenance import Metric
from training.evaluate import ask
from training.tasks.translate.text import SOURCE_WORDS, TARGET_WORDS, Pair, make_normalizer

BEAMS = 4
FLOOR = "each word as the one that train's translations have most often beside it (Dice), in the sentence's order"

References = Mapping[str, Sequence[str]]  # by sentence


def by_sentence(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Return the references of each sentence, their characters spelt alike."""
    spelling = make_normalizer()
    references: defaultdict[str, list[str]] = defaultdict(list)
    for sentence, reference in pairs:
        references[sentence].append(spelling.normalize_str(reference))
    return dict(references)


def translate(url: str, model: str, sentences: Sequence[str]) -> list[str]:
    """Return what `/v1/translate` makes of sentences."""
    return [result["text"] for result in ask(url, "/v1/translate", "inputs", sentences, model=model, beams=BEAMS)]


class WordTable:
    """For each word of train the one in its translations that it shares most with: twice the pairs that hold both,
    over the pairs that hold either; of equals the first by its letters.

    Source: Dice, Ecology 26(3), 1945.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        sources, targets = Counter[str](), Counter[str]()
        both: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for sentence, translation in pairs:
            read, written = {*_words(sentence, SOURCE_WORDS)}, {*_words(translation, TARGET_WORDS)}
            sources.update(read)
            targets.update(written)
            for word in read:
                both[word].update(written)
        self._table = {
            word: max(sorted(found), key=lambda other: found[other] / (sources[word] + targets[other]))
            for word, found in both.items()
        }

    def translate(self, sentence: str) -> str:
        """Return the sentence word for word. Words hold the space before them."""
        return "".join(self._table.get(word, word) for word in _words(sentence, SOURCE_WORDS)).strip()


def _words(text: str, pattern: str) -> list[str]:
    normalizer, splitter = _reader(pattern)
    return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]


@cache
def _reader(pattern: str) -> tuple[Normalizer, Split]:
    return make_normalizer(), Split(Regex(pattern), "isolated")


def scorers(tokenized: bool) -> dict[str, BLEU | CHRF]:
    """Return the measures by name; `tokenized` is text whose words are split already."""
    return {"bleu": BLEU(tokenize="none" if tokenized else "13a", force=tokenized), "chrf": CHRF()}


def signatures(references: References, tokenized: bool) -> str:
    """Say how sacrebleu computes the figures, in its own terms."""
    told = []
    for name, scorer in scorers(tokenized).items():
        scorer.corpus_score([*references], _columns(references))
        told.append(f"{name} {scorer.get_signature()}")
    return "; ".join(told)


def figures(
    model: str, part: str, train: Sequence[Pair], references: References, tokenized: bool, url: str
) -> tuple[Metric, ...]:
    """Return BLEU and chrF of the translations of a part, which is named `part`, beside a word table's."""
    table = WordTable(train)
    answered, floor = translate(url, model, [*references]), [table.translate(sentence) for sentence in references]
    columns = _columns(references)
    metrics = []
    for name, scorer in scorers(tokenized).items():
        value, lowest = (scorer.corpus_score(texts, columns).score for texts in (answered, floor))
        metrics.append(Metric(name=f"{part}_{name}", value=value, floor=lowest, floor_method=FLOOR))
    return tuple(metrics)


def _columns(references: References) -> list[Sequence[Any]]:
    """Return the references as sacrebleu takes them: every sentence's first one, then every second one, ..., None where
    there is none."""
    return [*zip_longest(*references.values())]
