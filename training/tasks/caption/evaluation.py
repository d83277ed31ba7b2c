"""The captioner's figures beside their floor: how near its captions of a part come to people's.

It knows images with their captions, and how to ask a running service; what serves there it does not.
Invariant: every image of a part is asked once, and its caption compared with all that people wrote of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sacrebleu.metrics.bleu import BLEU
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]

from service.contract.provenance import Metric
from training.evaluate import ask
from training.tasks.caption.text import Image, make_normalizer

BEAMS = 4
LONGEST = 32  # words that are written at most
ORDERS = (1, 2, 3, 4)
FLOOR = "the first caption of the train image with the nearest vector"


def write_captions(url: str, model: str, images: Sequence[Image]) -> list[str]:
    """Return the captions that `/v1/generate` writes of images."""
    items = [{"condition": {"vector": image.vector.tolist()}} for image in images]
    results = ask(url, "/v1/generate", "items", items, model=model, max_steps=LONGEST, beams=BEAMS)
    return [result["choices"][0]["text"] for result in results]


def nearest_captions(train: Sequence[Image], images: Sequence[Image]) -> list[str]:
    """Return for each image the first caption of the train image with the nearest vector."""
    known, asked = (torch.stack([image.vector for image in part]).numpy() for part in (train, images))
    nearest = NearestNeighbors(n_neighbors=1).fit(known).kneighbors(asked, return_distance=False)
    return [train[place].captions[0] for place in nearest[:, 0]]


def bleu(texts: Sequence[str], images: Sequence[Image], order: int) -> float:
    """Return how near captions come to all that people wrote of their images, in words and runs of words up to `order`.

    Source: Papineni et al., ACL 2002. Units: percent.
    """
    normalizer = make_normalizer()
    written = [normalizer.normalize_str(text) for text in texts]
    by_image = [[normalizer.normalize_str(text) for text in image.captions] for image in images]
    references = [list(column) for column in zip(*by_image, strict=True)]
    scorer = BLEU(max_ngram_order=order, tokenize="none", force=True)
    return float(scorer.corpus_score(written, references).score)


def figures(model: str, part: str, train: Sequence[Image], images: Sequence[Image], url: str) -> tuple[Metric, ...]:
    """Return BLEU-1 to BLEU-4 of the captions of a part, which is named `part`, beside those of the nearest image."""
    answered, floor = write_captions(url, model, images), nearest_captions(train, images)
    return tuple(
        Metric(
            name=f"{part}_bleu_{order}",
            value=bleu(answered, images, order),
            floor=bleu(floor, images, order),
            floor_method=FLOOR,
        )
        for order in ORDERS
    )
