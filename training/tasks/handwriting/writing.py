"""Writing under PyTorch: texts in, the points that a trained network draws out.

It knows the network and its paper, not data or figures. Invariant: a row ends where the network says so, or after
`MAX_POINTS`; with the same texts, bias and seed it draws the same points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.tasks.handwriting.data import MAX_POINTS, Points
from training.tasks.handwriting.mixture import draw
from training.tasks.handwriting.network import POINT, HandwritingNetwork
from training.tasks.handwriting.paper import Paper


@torch.no_grad()
def write(network: HandwritingNetwork, paper: Paper, texts: Sequence[str], bias: float, seed: int) -> list[Points]:
    """Write every text. The higher the bias, the likelier and tidier; 0 draws as the network says.

    Units: thousandths of an inch.
    """
    generator = torch.Generator().manual_seed(seed)
    ids, lengths = paper.ids(texts)
    memory, states = network.alphabet(ids, lengths), network.zero_states(len(texts))
    single = torch.ones_like(lengths)
    point = torch.zeros(len(texts), POINT)
    drawn = torch.zeros(len(texts), MAX_POINTS, POINT)
    counts = torch.full((len(texts),), MAX_POINTS)
    for step in range(MAX_POINTS):
        raw, last, *carried = network(point.unsqueeze(1), single, lengths, *states, memory)
        states = tuple(carried)
        ended = torch.rand(len(texts), generator=generator) < last[:, 0]
        counts[ended] = counts[ended].clamp(max=step)
        if bool((counts <= step).all()):
            break
        drawn[:, step] = point = draw(raw, bias, generator)
    return [paper.measured(row[:count]) for row, count in zip(drawn, counts.tolist(), strict=True)]
