"""The tagger's figures beside their floors: how many words of each part of the treebank it tags right.

It knows the treebank's words, and how to ask a running service for their tags; what serves there it does not.
Invariant: words are sent as the treebank splits them, all of a part are asked, and each counts the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.contract.provenance import Metric
from training.evaluate import ask
from training.tasks.tagger.text import Sentence

FLOOR = "each word's most frequent tag in train; {} where train does not hold it"


def ask_tokens(url: str, model: str, sentences: Sequence[Sentence]) -> list[dict[str, Any]]:
    """Return what `/v1/tag` says of each word of the sentences, one after the other."""
    items = [{"tokens": [form for form, *_ in sentence]} for sentence in sentences]
    results = ask(url, "/v1/tag", "inputs", items, model=model)
    return [token for result in results for token in result["tokens"]]


def frequent_tags(train: Sequence[Sentence]) -> tuple[dict[str, str], str]:
    """Return each word's most frequent tag, by its spelling in lower case, and that of the words that occur once."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for form, tag, _ in (word for sentence in train for word in sentence):
        counts[form.lower()][tag] += 1
    once = Counter(tag for tags in counts.values() if tags.total() == 1 for tag in tags)
    return {word: tags.most_common(1)[0][0] for word, tags in counts.items()}, once.most_common(1)[0][0]


def figures(
    model: str, train: Sequence[Sentence], parts: Mapping[str, Sequence[Sentence]], url: str
) -> tuple[Metric, ...]:
    """Return the accuracy on each part, over all words and over those that train does not hold."""
    known, other = frequent_tags(train)
    metrics = []
    for part, sentences in parts.items():
        words = [(form.lower(), tag) for sentence in sentences for form, tag, _ in sentence]
        answered = [token["label"] for token in ask_tokens(url, model, sentences)]
        right = np.array([tag == label for (_, tag), label in zip(words, answered, strict=True)])
        guessed = np.array([known.get(form, other) == tag for form, tag in words])
        unseen = np.array([form not in known for form, _ in words])
        for name, chosen in ((f"ud_ewt_{part}_upos_accuracy", slice(None)), (f"ud_ewt_{part}_unseen_accuracy", unseen)):
            value, floor = float(right[chosen].mean()), float(guessed[chosen].mean())
            metrics.append(Metric(name=name, value=value, floor=floor, floor_method=FLOOR.format(other)))
    return tuple(metrics)
