"""What `export_module` refuses: the message says what, where, and what would be right, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import echo
import pytest
import torch
import users_modules as users
from test_foreign_module import FORECAST, LENGTHS, ROWS, TIME, values
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from typer.testing import CliRunner

from service.errors import StartupError
from training import cli, export_module

X = values(ROWS, TIME, users.FEATURES)
BOTH = {"lengths": "lengths"}


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape)


class Reader(nn.Module):
    """A layer to build on."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer = nn.GRU(users.FEATURES, 5, **{"batch_first": True, **options})

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(x)[0]


class Remembers(Reader):
    h = None

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        read, h = self.layer(x, self.h if self.h is not None and self.h.shape[1] == len(x) else None)
        self.h = h
        return read


class Branches(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        if x.sum() > 0:
            x = -x
        return self.layer(x)[0]


class ListsLengths(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths.tolist(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class Loops(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        h, read = None, []
        for at in range(x.shape[1]):
            step, h = self.layer(x[:, at : at + 1], h)
            read.append(step)
        return torch.cat(read, 1)


class Strides(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool1d(2, ceil_mode=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(self.pool(x.transpose(1, 2)).transpose(1, 2))[1][0]


class PadsWider(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=40)[0].sum(1)


class Transforms(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return torch.linalg.eigvals(self.layer(x)[0].unsqueeze(3) * torch.ones(5)).abs()


class Unused(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        self.layer(x.flip(1))
        return self.layer(x)[0]


class Averages(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(x)[0].mean(1)


class MixesRows(users.OneStep):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        return super().forward(x - x.mean(0), h)


class LastByPlace(Reader):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return self.layer(x)[0][:, -1]


class OwnLayer(nn.GRU):
    def forward(self, *given: Any) -> Any:
        return super().forward(*given)


class HoldsOwnLayer(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.layer = OwnLayer(users.FEATURES, 5, batch_first=True)


class OtherStates(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(x, torch.zeros(1, ROWS, 5))[0]


class Masked(Reader):
    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.layer(x * mask[..., None])[0]


class Truths(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(x)[0] > 0


class Halves(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(x)[0][:, ::2]


class Unbatched(Reader):
    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return self.layer(x[:, 0])[0]


class StateAlone(users.Stream):
    def forward(self, x: Tensor, state: Any) -> Any:
        return (self.reader(x, state)[1],)


class StateGrows(users.OneStep):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        return x, torch.cat([h, h])


CALLED: dict[str, tuple[nn.Module, Any, dict[str, Any], str]] = {
    "hidden state": (Remembers(), (X, LENGTHS), BOTH, r"a call changes h, .* name it in states"),
    "other states": (
        OtherStates(),
        (X, LENGTHS),
        BOTH,
        r"fails on 2 rows of 7 steps at .*_refusals.py:\d+ ",
    ),
    "own forward": (HoldsOwnLayer(), (X, LENGTHS), BOTH, "layer is a OwnLayer with a forward of its own"),
    "no module": (lambda x: x, (X,), {}, "module is a function; it must be an nn.Module"),
    "second sequence": (Masked(), (X, X[..., 0]), {}, "has the tensors x, mask, and one is served"),
    "missing argument": (Reader(), (X,), {}, "example does not fit forward.*missing a required argument: 'lengths'"),
    "unknown lengths": (Reader(), (X, LENGTHS), {"lengths": "n"}, "example has no n; it has x, lengths"),
    "lengths of other rows": (
        Reader(),
        (X, LENGTHS[:2]),
        BOTH,
        "lengths must be a tensor of 4 whole numbers",
    ),
    "lengths as floats": (Reader(), (X, LENGTHS.float()), BOTH, "lengths must be a tensor of 4 whole numbers"),
    "double": (Reader().double(), (X.double(), LENGTHS), BOTH, r"is torch.float64, .* call module.float\(\) first"),
    "doubles": (Reader(), (X.double(), LENGTHS), BOTH, "the module fails on 2 rows of 7 steps at .*float64"),
    "all alike": (Reader(), (zeros(4, 7, 3), LENGTHS), BOTH, "all steps of x in the example are alike"),
    "truths": (Truths(), (X, LENGTHS), BOTH, "output is torch.bool; Baton serves float32, float64, int32, int64"),
    "pooled steps": (
        Halves(),
        (X, LENGTHS),
        BOTH,
        r"output has the shapes \[2, 4, 5\], \[3, 4, 5\], \[2, 5, 5\] .* \(a convolution along time",
    ),
    "too many names": (
        Reader(),
        (X, LENGTHS),
        {**BOTH, "outputs": {"a": (), "b": ()}},
        r"names 2 \(a, b\), .* returns 1",
    ),
    "labels": (
        Reader(),
        (X, LENGTHS),
        {**BOTH, "outputs": {"y": ("a", "b")}},
        "outputs: y .*2 do not fit the last",
    ),
    "a name twice": (Reader(), (X, LENGTHS), {**BOTH, "outputs": {"x": ()}}, "x names an argument and an output"),
    "an axis": (Reader(), (X, LENGTHS), {**BOTH, "time_axis": 2}, "time_axis is 2; it is 0 or 1"),
    "two tasks": (Reader(), (X, LENGTHS), {"states": {"x": 0}, "forecast": FORECAST}, "neither states nor text"),
    "one place for two": (
        users.Stream(),
        (X, (zeros(2, ROWS, 6), zeros(2, ROWS, 6))),
        {"states": {"state": 1, "x": 1}},
        "gives one place in what is returned to several",
    ),
    "a name": (Reader(), (X, LENGTHS), {**BOTH, "name": "Kiln 1"}, "name 'Kiln 1' must match"),
    "no such place": (
        users.Stream(),
        (X, (zeros(2, ROWS, 6), zeros(2, ROWS, 6))),
        {"states": {"state": 2}},
        r"returned at \[2\], and what is returned has \[0, 1\]",
    ),
    "a state's shape": (
        users.OneStep(),
        (X[:, 0], zeros(1, ROWS, 5)),
        {"states": {"h": 0}, "time_axis": None},
        r"h go in as \[1, 2, 5\] .* is \[2, 5\] .*: each state must come out as it goes in",
    ),
    "a growing state": (
        StateGrows(),
        (X[:, 0], zeros(1, ROWS, 5)),
        {"states": {"h": 1}, "time_axis": None},
        "each state must come out as it goes in",
    ),
    "rows like another size": (
        users.OneStep(),
        (values(5, users.FEATURES), zeros(1, 5, 5)),
        {"states": {"h": 1}, "time_axis": None},
        r"the shape \[1, 5, 5\], and which axis is that of its 5 rows cannot be told",
    ),
    "rows that begin apart": (
        users.OneStep(),
        (X[:, 0], values(1, ROWS, 5)),
        {"states": {"h": 1}, "time_axis": None},
        "the rows of the example's h differ, and every session begins with the same state",
    ),
    "nothing but states": (
        StateAlone(),
        (X, (zeros(2, ROWS, 6), zeros(2, ROWS, 6))),
        {"states": {"state": 0}},
        "returns nothing but its states",
    ),
    "a reverse direction": (
        users.Stream(bidirectional=True),
        (X, (zeros(4, ROWS - 1, 6), zeros(4, ROWS - 1, 6))),
        {"states": {"state": 1}},
        "reader is bidirectional, and with states the model is a stream",
    ),
}
TRACED: dict[str, tuple[nn.Module, Any, dict[str, Any], str]] = {
    "a branch": (Branches(), (X, LENGTHS), BOTH, r"_refusals.py:\d+ \(if x.sum\(\) > 0:\); .* choose with torch.where"),
    "a list of lengths": (ListsLengths(), (X, LENGTHS), BOTH, r"lengths.tolist\(\).*hand lengths on as the tensor"),
    "a loop over time": (Loops(), (X, LENGTHS), BOTH, "fixes an axis .* it loops over steps or rows in Python"),
    "fewer steps": (
        Strides(),
        (X, LENGTHS),
        BOTH,
        r"layer reads batch rows of .*time - 1.* steps, .* with pack_padded",
    ),
    "no batch axis": (
        Unbatched(),
        (X, LENGTHS),
        BOTH,
        r"layer reads \[batch, 3\]: give it axes for batch",
    ),
    "another layout": (
        Reader(batch_first=False),
        (X, LENGTHS),
        BOTH,
        "layer reads time rows of batch steps, .* check batch_first",
    ),
    "wider padding": (PadsWider(), (X, LENGTHS), BOTH, "total_length=40, .* leave total_length out"),
    "an unused layer": (Unused(), (X, LENGTHS), BOTH, "1 recurrent nodes for 2 layers; each must be one, in use"),
    "no such operator": (
        Transforms(),
        (X, LENGTHS),
        BOTH,
        "ONNX does not have one of its operations: .*No ONNX function found for .*linalg_eig",
    ),
    "a convolution": (
        users.Convolution(masked=False),
        (X, LENGTHS),
        BOTH,
        r"junk_in_padding .* front \(Conv1d\) reads the padding .* mask .* by the lengths",
    ),
    "a mean": (Averages(), (X, LENGTHS), BOTH, "ragged_vs_single .* between its layers, mixes a row with"),
    "the last step": (LastByPlace(), X, {}, "mixes a row with the padding .* by lengths, taken as an argument"),
    "rows mixed": (
        MixesRows(),
        (X[:, 0], zeros(1, ROWS, 5)),
        {"states": {"h": 1}, "time_axis": None},
        "ragged_vs_single .* something in forward mixes the rows of a batch: answer each by itself",
    ),
    "no forecast": (
        Reader(),
        (X, LENGTHS),
        {**BOTH, "forecast": FORECAST},
        "(?s)its manifest would break the contract: .*must be mean .*; quantiles",
    ),
}


@pytest.mark.parametrize("case", [*CALLED, *TRACED])
def test_a_module_that_cannot_be_served_is_refused_with_what_would_be_right(tmp_path: Path, case: str) -> None:
    module, example, told, message = {**CALLED, **TRACED}[case]
    with pytest.raises(StartupError, match=message):
        export_module(module, example, **{"name": "refused", **told}, models_dir=tmp_path / "models")
    assert [found for found in echo.files_below(tmp_path) if found != "models"] == []


FILE = """
def nothing():
    return None

def misspelt():
    return {"module": None, "exampel": None}
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("model.py", "'.*model.py' must be a file and a function in it, as in model.py:build"),
        ("none.py:build", "none.py is no file"),
        ("model.py:build", "model.py has no function build"),
        ("model.py:nothing", "returns a NoneType; it must return a dict with module and example"),
        (
            "model.py:misspelt",
            "returns a dict of module, exampel; it must .* any of description, feedback, forecast, lengths",
        ),
    ],
)
def test_a_source_that_gives_no_module_is_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "model.py").write_text(FILE)
    ended = CliRunner().invoke(cli.app, ["export", str(tmp_path / source)])
    assert isinstance(ended.exception, StartupError)
    assert ended.exception.args[0]
    with pytest.raises(StartupError, match=message):
        raise ended.exception
