"""Modules as people write them: nothing in them knows of Baton, ONNX or export."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

FEATURES, WORDS = 3, 20


class Tagger(nn.Module):
    """Ids in, a score of each tag for each of them out; packed, in any order."""

    def __init__(self, projection: int = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 5, padding_idx=0)
        self.reader = nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True, proj_size=projection, dropout=0.5)
        self.head = nn.Linear(2 * (projection or 6), 4)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.table(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed, _ = self.reader(packed)
        packed = packed._replace(data=torch.tanh(packed.data))
        read, _ = pad_packed_sequence(packed, batch_first=True, total_length=ids.shape[1])
        return self.head(read)


class Classifier(nn.Module):
    """The last states of a bidirectional encoder; packed, the longest row first."""

    def __init__(self, words: int = WORDS) -> None:
        super().__init__()
        self.table = nn.Embedding(words, 5)
        self.encoder = nn.LSTM(5, 4, bidirectional=True)
        self.head = nn.Linear(8, 2)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.table(ids).transpose(0, 1), lengths)
        _, (h, _) = self.encoder(packed)
        return self.head(torch.cat([h[0], h[1]], dim=1)).softmax(dim=1)


class TimeFirst(nn.Module):
    """Two stacks, one after the other, time first, without lengths: outputs, and the last states of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = (
            nn.GRU(FEATURES, 4, bidirectional=True),
            nn.RNN(8, 5, 2, nonlinearity="relu", bias=False),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        read, _ = self.lower(x)
        read, h = self.upper(read)
        return read, h[-1]


class Attention(nn.Module):
    """A masked attention over the outputs, the steps not packed though the layer has two directions."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.query = nn.GRU(FEATURES, 4, batch_first=True, bidirectional=True), nn.Linear(8, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        read, _ = self.reader(x)
        there = torch.arange(x.size(1), device=x.device)[None] < lengths[:, None]
        weights = self.query(read).squeeze(2).masked_fill(~there, -torch.inf).softmax(dim=1)
        return torch.einsum("bt,btf->bf", weights, read)


class Pooled(nn.Module):
    """The last output by its index beside a maximum and a mean, all masked, and zero states made by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(FEATURES, 5, 2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        self.reader.flatten_parameters()
        h = torch.zeros(self.reader.num_layers, x.size(0), self.reader.hidden_size, device=x.device)
        read, _ = self.reader(x, (h, torch.zeros_like(h)))
        there = (torch.arange(x.size(1)) < lengths[:, None])[:, :, None]
        last = read[torch.arange(x.size(0)), lengths - 1]
        mean = (read * there).sum(dim=1) / lengths[:, None]
        return last + mean + read.masked_fill(~there, -1e9).amax(dim=1)


class Shared(nn.Module):
    """One layer, called twice: the second time from where the first call ended."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(FEATURES, FEATURES, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        read, states = self.layer(x)
        return self.layer(read, states)[0]


class Convolution(nn.Module):
    """A convolution in front, its input masked; only the data of what is packed is changed on the way."""

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.masked = masked
        self.front, self.reader = nn.Conv1d(FEATURES, 4, 3, padding=1), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.masked:
            x = x * (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]
        read = self.front(x.transpose(1, 2)).transpose(1, 2)
        packed = pack_padded_sequence(read, lengths, batch_first=True, enforce_sorted=False)
        packed = PackedSequence(packed.data.relu(), packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return self.reader(packed)[1].squeeze(0)


class Started(nn.Module):
    """A reader whose states begin at what a first one, projected and in both directions, made of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(FEATURES, 5, batch_first=True, bidirectional=True)
        self.then = nn.LSTM(FEATURES, 5, batch_first=True, bidirectional=True, proj_size=2)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (h, c) = self.first(packed)
        read, (h, _) = self.then(packed, (h[:, :, :2].contiguous(), c))
        return pad_packed_sequence(read, batch_first=True, padding_value=-1.0)[0], h.transpose(0, 1)


class Stream(nn.Module):
    """A chunk and a state in, answers and a state out."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.reader = nn.LSTM(FEATURES, 6, 2, batch_first=True, **options)
        self.head = nn.Linear(options.get("proj_size", 6) * (2 if self.reader.bidirectional else 1), 2)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        read, state = self.reader(x, state)
        return self.head(read), state


class OneStep(nn.Module):
    """One step a call: the layer sees a time of 1 that callers do not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(FEATURES, 5, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        read, h = self.layer(x.unsqueeze(1), h)
        return read.squeeze(1), h


class Cells(nn.Module):
    """One step a call of cells, everything returned by name."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.LSTMCell(FEATURES, 6), nn.GRUCell(6, 5)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, *, g: Tensor) -> dict[str, Tensor]:
        h, c = self.lower(x, (h, c))
        g = self.upper(h, g)
        return {"h": h, "answer": 2 * g, "g": g, "c": c}


class Forecaster(nn.Module):
    """A history in, a mean and quantiles of what comes out."""

    def __init__(self, horizon: int, quantiles: int) -> None:
        super().__init__()
        self.reader, self.head = nn.GRU(1, 6, batch_first=True), nn.Linear(6, horizon * (1 + quantiles))
        self.horizon = horizon

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:  # the exporter has a name v of its own
        _, h = self.reader(v.unsqueeze(2))
        made = self.head(h[-1]).view(v.shape[0], self.horizon, -1)
        return made[:, :, 0], made[:, :, 1:]


class Labeller(Tagger):
    """The tagger, with probabilities."""

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(ids, lengths).softmax(dim=2)


class Speller(nn.Module):
    """A word's id and those of its characters in, probabilities of its label out, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.letters = nn.Embedding(WORDS, 5), nn.Embedding(28, 3, padding_idx=0)
        self.reader, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, ids: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        spelled = self.letters(ids[:, :, 1:]).sum(dim=2)
        read, h = self.reader(torch.cat([self.words(ids[:, :, 0]), spelled], dim=2), h)
        return self.head(read).softmax(dim=2), h


class Denoiser(nn.Module):
    """As many samples out as in, read from both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.head = nn.GRU(1, 5, batch_first=True, bidirectional=True), nn.Linear(10, 1)

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(samples[..., None], lengths, batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.reader(packed)[0], batch_first=True)
        return samples - self.head(read).squeeze(2)


class Listener(nn.Module):
    """Frames of samples in, what was said out: the energy of each frame's parts, and where a layer ends."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        energy = frames.view(frames.shape[0], frames.shape[1], 4, -1).square().mean(dim=3)
        packed = pack_padded_sequence((energy + 1e-3).log(), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.reader(packed)
        return self.head(h[-1]).softmax(dim=1)


class Writer(nn.Module):
    """Ids in, a score of each id to come next out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 5)
        self.reader, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, WORDS)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        read, state = self.reader(self.table(ids), state)
        return self.head(read), state
