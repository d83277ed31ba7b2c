"""SegRNN: the last 720 values of several channels in, the next 720 of each out, the scaling inside.

Each channel is a row of its own. Its last value is subtracted from its history, which is divided by the channel's
spread and cut into segments; a GRU reads them. Each segment of the future is then a single step of the same GRU. The
step's input says which segment and which channel is asked for, so that no segment waits for another. The step starts
from half of the GRU's last state and half of the mean of all its states; the paper takes the last state alone
(docs/training-log.md has the difference). It knows neither data nor training.

Invariants: y + b out for x + b in, channel by channel (up to float64); quantiles never cross; only a row's own last
`LOOKBACK` values count, whatever stands beyond its length and whichever rows share the batch.
Source: Lin et al., SegRNN, arXiv 2308.11200; parallel multi-step forecasting.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.recurrent import Recurrent
from training.series.conformal import apply_offsets
from training.series.quantiles import rising

LOOKBACK, HORIZON, SEGMENT = 720, 720, 24
LEVELS = (0.025, 0.05, 0.1, 0.5, 0.9, 0.95, 0.975)  # the median, and the bounds of the central 80, 90 and 95 %


class SegRNNNetwork(nn.Module):
    """Map histories of several channels to means and quantiles of what follows them.

    Z-scoring needs no mean here: subtracting the last value takes it away.
    """

    scale: Tensor

    def __init__(self, scale: Sequence[float], hidden: int = 256, dropout: float = 0.5) -> None:
        """Build for as many channels as `scale` has standard deviations."""
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.embed = nn.Linear(SEGMENT, hidden)
        self.recurrent = Recurrent("gru", hidden, hidden)
        self.position = nn.Parameter(torch.randn(HORIZON // SEGMENT, hidden // 2))
        self.channel = nn.Parameter(torch.randn(len(scale), hidden - hidden // 2))
        self.dropout = nn.Dropout(dropout)
        self.mean = nn.Linear(hidden, SEGMENT)
        self.spread = nn.Linear(hidden, SEGMENT * len(LEVELS))

    def forward(self, values: Tensor, lengths: Tensor, conformal_offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast from each row's end.

        Shapes: values [batch, time, channels] float64; lengths [batch] int32, each at least 720; conformal_offsets
        [levels]; returns mean [batch, 720, channels] and quantiles [batch, 720, channels, levels], float64.
        Units: those of the values.
        """
        history = latest(values, lengths)
        last = history[:, -1:]
        decoded = self.decoded((history - last).float() / self.scale)
        quantiles = apply_offsets(self.quantiles_of(decoded), conformal_offsets, LEVELS)
        mean = last + (self.scale * self.mean_of(decoded)).double()
        return mean, last[..., None] + (self.scale[:, None] * quantiles).double()

    def decoded(self, history: Tensor) -> Tensor:
        """Read scaled histories, and decode every segment of the future.

        Shapes: history [batch, 720, channels], its last value zero; returns [batch, segments, channels, hidden].
        """
        batch, _, channels = history.shape
        rows = history.transpose(1, 2).reshape(batch * channels, LOOKBACK // SEGMENT, SEGMENT)
        lengths = torch.full((batch * channels,), rows.shape[1], dtype=torch.int32, device=rows.device)
        outputs, (final,) = self.recurrent(functional.relu(self.embed(rows)), lengths)
        average = outputs.sum(1) / rows.shape[1]  # `mean` would leave its name in the graph, where an output has it
        state = (average + final[0]) / 2
        return self._step(state.view(batch, 1, channels, -1))

    def _step(self, state: Tensor) -> Tensor:
        """Take the GRU's step for every query from every channel's state.

        The gates' shares of queries and of states are sums, so each is multiplied out once and not for every pair.

        Shapes: state [batch, 1, channels, hidden]; returns [batch, segments, channels, hidden].
        Source: torch.nn.GRU's equations.
        """
        gru = self.recurrent.layers[0]
        assert isinstance(gru, nn.GRU)
        segments, channels = len(self.position), len(self.channel)
        position = self.position[:, None].expand(-1, channels, -1)
        query = torch.cat([position, self.channel.expand(segments, -1, -1)], 2)
        of_query, of_state, query_bias, state_bias = gru.all_weights[0]
        asked = functional.linear(query, of_query, query_bias).chunk(3, -1)
        known = functional.linear(state, of_state, state_bias).chunk(3, -1)
        reset, update = (torch.sigmoid(asked[gate] + known[gate]) for gate in (0, 1))
        new = torch.tanh(asked[2] + reset * known[2])
        return torch.lerp(new, state.to(new.dtype).expand_as(new), update)  # the copies in bfloat16 under autocast

    def mean_of(self, decoded: Tensor) -> Tensor:
        """Return the means of what `decoded` returned. Shapes: [batch, 720, channels]. Units: scales above the last."""
        return self._in_time(self.mean(self.dropout(decoded)))[..., 0]

    def quantiles_of(self, decoded: Tensor) -> Tensor:
        """Return the quantiles, as learned. Shapes: [batch, 720, channels, levels]. Units: scales above the last."""
        return rising(self._in_time(self.spread(decoded)))

    def _in_time(self, parts: Tensor) -> Tensor:
        """Lay the segments one after the other.

        Shapes: parts [batch, segments, channels, SEGMENT * n]; returns [batch, 720, channels, n].
        """
        batch, segments, channels, _ = parts.shape
        cells = parts.view(batch, segments, channels, SEGMENT, -1).transpose(2, 3)
        return cells.reshape(batch, segments * SEGMENT, channels, -1)


def latest(values: Tensor, lengths: Tensor) -> Tensor:
    """Take each row's own last `LOOKBACK` values.

    Shapes: values [batch, time, channels]; lengths [batch], each at least 720; returns [batch, 720, channels].
    """
    place = lengths.long()[:, None] - LOOKBACK + torch.arange(LOOKBACK, device=values.device)
    return values.gather(1, place[..., None].expand(-1, -1, values.shape[2]))
