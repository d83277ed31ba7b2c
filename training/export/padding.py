"""Which part of a module reads the padding behind a row, for the message that refuses it.

It knows modules and calls, not graphs. Invariant: a layer is named only if its answers for a row's own steps differ
while what it was given for them does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from training.export.foreign import Served
from training.export.graph import Servable

LENGTH, WIDTH = 5, 11  # of the row, and with its padding
TOLERANCE = 1e-6  # rounding
FALLBACK = "something in forward, between its layers, mixes a row with the padding behind it or with other rows"

Calls = list[tuple[str, list[Tensor], list[Tensor]]]  # of each layer, what it was given, and what it made


def padding_advice(servable: Servable) -> str:
    """Say what reads beyond a row's length, and what would be right. The servable's network is a `Served`."""
    served = servable.network
    assert isinstance(served, Served)
    if not servable.sequence.has_time:
        return "something in forward mixes the rows of a batch: answer each by itself"
    found = _first_reader(servable, served)
    reader = f"{found} reads the padding behind a row" if found else FALLBACK
    means = "by the lengths" if served.call.lengths else "by lengths, taken as an argument and named in lengths"
    return (
        f"{reader}, so that an answer depends on the rows beside it: mask what mixes steps (a convolution, a mean, "
        f"attention, the last step by its place) {means}"
    )


def _first_reader(servable: Servable, served: Served) -> str | None:
    rng = np.random.default_rng(0)
    row = servable.draw(rng, LENGTH)
    one, other = (_calls(servable, served, np.concatenate([row, servable.draw(rng, WIDTH - LENGTH)])) for _ in range(2))
    for (name, given, made), (_, other_given, other_made) in zip(one, other, strict=True):
        if _same(given, other_given) and not _same(made, other_made):
            return name
    return None


def _calls(servable: Servable, served: Served, row: np.ndarray[Any, Any]) -> Calls:
    """Return what every innermost layer was given and made, in the order of the calls.

    PyTorch's recurrent layers are left out: export gives them the lengths.
    """
    calls: Calls = []

    def note(name: str) -> Any:
        def hook(layer: nn.Module, given: Any, made: Any) -> None:
            calls.append((f"{name} ({type(layer).__name__})", _own(given), _own(made)))

        return hook

    hooks = [
        layer.register_forward_hook(note(name))
        for name, layer in served.module.named_modules()
        if name and not any(layer.children()) and not isinstance(layer, nn.RNNBase)
    ]
    _, _, *states = map(torch.from_numpy, servable.arguments(row[None], np.array([LENGTH])))
    try:
        with torch.no_grad():
            served.call.run(served.module, torch.from_numpy(row[None]), torch.tensor([LENGTH]), states)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _own(values: Any) -> list[Tensor]:
    """Return the tensors in `values`, each axis that has the padded width cut to the row's own steps."""
    leaves = [leaf.detach() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [leaf[tuple(slice(LENGTH if size == WIDTH else None) for size in leaf.shape)] for leaf in leaves]


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(
        one.shape == other.shape and torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
        for one, other in zip(ours, theirs, strict=True)
    )
