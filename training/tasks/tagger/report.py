"""What is worth a picture of a tagger: whether its scores can be trusted, which tags it mixes up, its surest mistakes.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: all words of a part are asked; the mistakes shown are those of the highest score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.manifest import Manifest
from training.report.pages import Picture, Table
from training.report.plots import draw_reliability
from training.tasks.tagger.evaluation import ask_tokens
from training.tasks.tagger.text import Sentence

MISTAKES = 8
BESIDE = 4  # words shown on either side of a mistake


@dataclass(frozen=True)
class _Tagged:
    words: str  # with those beside it
    true: str
    answered: str
    score: float


def report_tagger(
    url: str, manifest: Manifest, sentences: Sequence[Sentence], part: str
) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model of `/v1/tag`; `part` names the data."""
    tagged = _ask(url, manifest.name, sentences)
    right = np.array([each.true == each.answered for each in tagged])
    caption = (
        f"How often a tag of a score is right: {part}. On the dotted line a score of 0.9 is right nine times in ten; "
        "below it the model is too sure of itself."
    )
    reliability = draw_reliability(np.array([each.score for each in tagged]), right)
    return (Picture("reliability", caption, reliability),), (_by_tag(tagged, part), _mistakes(tagged, part))


def _ask(url: str, model: str, sentences: Sequence[Sentence]) -> list[_Tagged]:
    tokens = iter(ask_tokens(url, model, sentences))
    found = []
    for sentence in sentences:
        forms = [form for form, *_ in sentence]
        for place, (form, true, _) in enumerate(sentence):
            before, after = forms[max(place - BESIDE, 0) : place], forms[place + 1 : place + 1 + BESIDE]
            token = next(tokens)
            shown = " ".join([*map(_shown, before), f"**{_shown(form)}**", *map(_shown, after)])
            found.append(_Tagged(shown, true, token["label"], token["score"]))
    return found


def _by_tag(tagged: Sequence[_Tagged], part: str) -> Table:
    pairs = Counter((each.true, each.answered) for each in tagged)
    true, answered = Counter(each.true for each in tagged), Counter(each.answered for each in tagged)
    rows = []
    for tag, count in true.most_common():
        others = Counter({other: times for (each, other), times in pairs.items() if each == tag != other})
        instead = ", ".join(f"{other} {times}" for other, times in others.most_common(3))
        shares = (f"{pairs[tag, tag] / total:.1%}" if total else "" for total in (count, answered[tag]))
        rows.append((tag, f"{count:,}", *shares, instead))
    header = ("tag", "words", "found", "right where answered", "answered instead")
    return Table(caption=f"Tag by tag: {part}.", header=header, rows=tuple(rows))


def _mistakes(tagged: Sequence[_Tagged], part: str) -> Table:
    wrong = sorted((each for each in tagged if each.true != each.answered), key=lambda each: -each.score)
    rows = tuple((each.words, each.true, each.answered, f"{each.score:.3f}") for each in wrong[:MISTAKES])
    return Table(caption=f"The surest mistakes: {part}.", header=("word", "true", "answered", "score"), rows=rows)


def _shown(word: str) -> str:
    return word.replace("|", "\\|").replace("<", "&lt;").replace("`", "'").replace("*", "\\*")
