"""What is worth a picture of a translator: what it looks at as it writes, how it does on longer sentences, examples.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: examples stand at even places of their part, never chosen by how well they are translated.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from sacrebleu.metrics.chrf import CHRF

from service.contract.manifest import Manifest
from training.evaluate import ask
from training.report.pages import Picture, Table
from training.report.plots import draw_attention
from training.tasks.translate.evaluation import BEAMS, References, translate

DRAWN = ("Where is the red house?", "I did not see him yesterday.")
EXAMPLES = 10
LONGEST = 12  # words; sentences that are longer count together


def report_translate(
    url: str, manifest: Manifest, references: References, part: str
) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model of `/v1/translate`; `part` names the data."""
    sentences = [*references]
    written = dict(zip(sentences, translate(url, manifest.name, sentences), strict=True))
    caption = (
        "What is looked at (columns) as each piece of a translation is written (rows): the darker, the more. Nothing "
        "but translations taught it which words belong together."
    )
    picture = Picture("attention", caption, draw_attention(_attended(url, manifest.name)))
    return (picture,), (_by_length(written, references, part), _examples(written, references, part))


def _attended(url: str, model: str) -> list[tuple[list[str], list[str], np.ndarray]]:
    results = ask(url, "/v1/translate", "inputs", DRAWN, model=model, beams=BEAMS, attention=True)
    found = [result["attention"] for result in results]
    return [(each["source"], each["tokens"], np.array(each["weights"])) for each in found]


def _by_length(written: dict[str, str], references: References, part: str) -> Table:
    by_words: defaultdict[int, list[float]] = defaultdict(list)
    for sentence, text in written.items():
        score = CHRF().sentence_score(text, references[sentence]).score
        by_words[min(len(sentence.split()), LONGEST)].append(score)
    rows = [
        (f"{words}{' and more' if words == LONGEST else ''}", f"{len(scores):,}", f"{np.mean(scores):.1f}")
        for words, scores in sorted(by_words.items())
    ]
    caption = f"By length: {part}. The mean of the sentences' own chrF."
    return Table(caption=caption, header=("words", "sentences", "chrF"), rows=tuple(rows))


def _examples(written: dict[str, str], references: References, part: str) -> Table:
    every = max(len(written) // EXAMPLES, 1)
    chosen = [*written][::every][:EXAMPLES]
    rows = tuple((sentence, written[sentence], references[sentence][0]) for sentence in chosen)
    header = ("sentence", "translation", "first reference")
    return Table(caption=f"Sentences at even places: {part}.", header=header, rows=rows)
