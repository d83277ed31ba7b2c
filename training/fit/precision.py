"""The precision that a run trains in: the recipe's, where this machine's LSTM can, else float32.

It knows PyTorch and devices, not recipes. Invariant: what `settle` returns was tried here, forward and backward.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal

import torch
from torch import nn

from training.recipe import Precision

Device = Literal["cpu", "cuda"]

log = logging.getLogger("training.fit.precision")


def settle(asked: Precision, device: Device) -> Precision:
    """Return `asked`, or float32 where this machine cannot, and then say so in the log.

    oneDNN has bfloat16 LSTMs for AVX-512 alone; what a processor lacks shows at the first batch.
    """
    refusal = None if asked == "32-true" else _refusal_of_bfloat16(device)
    if refusal is None:
        return asked
    log.warning("training in float32: this machine's PyTorch has no bfloat16 LSTM on the %s (%s)", device, refusal)
    return "32-true"


@cache
def _refusal_of_bfloat16(device: Device) -> str | None:
    layer, steps = nn.LSTM(1, 1, device=device), torch.zeros(1, 1, 1, device=device)
    try:
        with torch.autocast(device, torch.bfloat16):
            outputs, _ = layer(steps)
        outputs.float().sum().backward()
    except RuntimeError as failure:
        return str(failure)
    return None
