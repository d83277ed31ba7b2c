"""What bounds a carried state in training."""

from __future__ import annotations

import pytest
import torch

from training.fit.state_penalty import STATE_LIMIT, state_penalty


def test_state_penalty_counts_what_is_beyond_the_limit():
    """One of four cells is 2 above the limit, another 1 below its negative: (4 + 1) / 4."""
    states = torch.tensor([[[STATE_LIMIT + 2, 0.0]]]), torch.tensor([[[-STATE_LIMIT - 1, STATE_LIMIT]]])
    assert state_penalty(states) == pytest.approx(1.25)
