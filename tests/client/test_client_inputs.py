"""What the client takes for a list, for numbers and for times: the same everywhere, and nothing by mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from conftest import Server, free_port

from baton_client import ApiError, AsyncClient, Client, StepItem

ROWS = np.random.default_rng(11).normal(size=(12, 2)).astype(np.float32)
WEEKS = [120.0, 124.0, 131.0, 128.0]
TEXTS = ["a good film", "not good"]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    assert server.url is not None
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def alone() -> Iterator[Client]:
    """A client whose service is not there: what it refuses, it refuses before anything is sent."""
    with Client(f"http://127.0.0.1:{free_port()}", timeout=1) as client:
        yield client


class Table:
    """A data frame, as far as Python sees one: it goes through the headings."""

    columns = ("a good film",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array([[1.0], [2.0], [3.0]], dtype)


NO_LISTS = [
    pytest.param("A good film.", id="text"),
    pytest.param(b"A good film.", id="bytes"),
    pytest.param(bytearray(b"abc"), id="bytearray"),
    pytest.param(memoryview(b"abc"), id="memoryview"),
    pytest.param({"text": "A good film.", "values": WEEKS}, id="mapping"),
    pytest.param({"a", "b"}, id="set"),
    pytest.param(Table(), id="table"),
    pytest.param(5, id="number"),
    pytest.param(np.float64(5), id="number of numpy"),
    pytest.param(np.array(5.0), id="array of no axis"),
    pytest.param(None, id="None"),
    pytest.param(StepItem([1.0]), id="item"),
]


@pytest.mark.parametrize("one", NO_LISTS)
@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda client, one: client.sentiment(one), "texts is of type {}; give a list of texts"),
        (lambda client, one: client.forecast(one, 2), "series is of type {}; give a list of series"),
        (lambda client, one: client.step_many("stepper", one), "items is of type {}; give a list of StepItem"),
        (lambda client, one: list(client.stream("stepper").map(one)), "inputs is of type {}; give a list of inputs"),
    ],
    ids=["texts", "series", "items", "inputs"],
)
def test_one_thing_is_not_taken_for_the_list_of_its_parts(
    alone: Client, call: Callable[[Client, object], object], told: str, one: object
) -> None:
    with pytest.raises(ValueError, match=told.format(type(one).__name__)):
        call(alone, one)


@pytest.mark.parametrize("one", [one for one in NO_LISTS if one.id != "text"])
def test_urls_are_one_text_or_a_list(one: object) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="urls is of type"):
            kind(one)


@pytest.mark.anyio
async def test_an_asynchronous_stream_maps_no_text_character_by_character(server: Server) -> None:
    assert server.url is not None
    async with AsyncClient(server.url) as client, client.stream("reader") as stream:
        with pytest.raises(ValueError, match="inputs is of type str"):
            _ = [output async for output in stream.map("a good film")]
        assert [output.tokens async for output in stream.map(["a good", "film"])] == [["a", "good"], ["film"]]


@pytest.mark.parametrize(
    "listed",
    [tuple, iter, np.array, lambda texts: dict.fromkeys(texts).keys(), lambda texts: (text for text in texts)],
    ids=["tuple", "iterator", "array", "keys", "generator"],
)
def test_any_sequence_of_things_is_a_list(client: Client, listed: Callable[[list[str]], Any]) -> None:
    assert [result.label for result in client.sentiment(listed(TEXTS))] == [
        result.label for result in client.sentiment(TEXTS)
    ]


def test_a_generator_may_use_the_client_that_it_is_given_to(client: Client) -> None:
    def texts() -> Iterator[str]:
        for text in TEXTS:
            yield f"{client.sentiment([text])[0].label} {text}"

    def rows() -> Iterator[Any]:
        for row in ROWS:
            client.models()
            yield row

    assert len(client.sentiment(texts())) == 2
    assert client.step("stepper", rows()).step == 12
    with client.stream("stepper") as stream:
        assert stream.step(rows()).step == 12


NO_NUMBERS = [
    pytest.param("12", "of type str", id="text"),
    pytest.param(b"12", "of type bytes", id="bytes"),
    pytest.param({"a": 1.0}, "of type dict", id="mapping"),
    pytest.param({1.0, 2.0}, "of type set", id="set"),
    pytest.param(5, "is 5; give", id="number"),
    pytest.param(["1", "2"], "holds str", id="texts"),
    pytest.param([1.0, "2"], "holds str", id="a text among them"),
    pytest.param([None, "2"], "holds NoneType, str", id="a text and a gap"),
    pytest.param([True, False], "holds bool", id="truth values"),
    pytest.param([date(2026, 1, 31)], "cannot be read as numbers", id="dates"),
    pytest.param(np.array(["2026-01-31"], "datetime64[ns]"), "holds datetime64", id="dates of numpy"),
    pytest.param([1 + 2j], "holds complex128", id="complex numbers"),
    pytest.param([[1.0, 2.0], [3.0]], "cannot be read as numbers", id="ragged rows"),
    pytest.param(np.zeros((2, 2, 2)), "has shape", id="three axes"),
]


@pytest.mark.parametrize(("values", "told"), NO_NUMBERS)
def test_what_only_looks_like_numbers_is_refused_with_its_place(alone: Client, values: object, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^series\[1\].values .*{told}"):
        alone.forecast([WEEKS, {"values": values}], 2)
    if isinstance(values, str):
        return  # which is an input of a step
    with pytest.raises(ValueError, match=rf"^items\[1\].inputs .*{told}"):
        alone.step_many("stepper", [StepItem(ROWS), StepItem(values)])


def test_numbers_in_place_of_series_are_told_from_one_series(alone: Client) -> None:
    with pytest.raises(ValueError, match=r"series\[0\] is 120.0; give numbers, or rows of channels, for each"):
        alone.forecast(WEEKS, 2)
    with pytest.raises(ValueError, match=r"series\[0\] has no member 'values'"):
        alone.forecast([{"value": WEEKS}], 2)
    with pytest.raises(ValueError, match=r"items\[0\] is of type list; give a StepItem"):
        alone.step_many("stepper", [[1.0, 2.0]])


@pytest.mark.parametrize(
    "values",
    [
        [120, None, 131.0, 128],
        [Decimal(120), float("nan"), 131, 128],
        np.ma.masked_equal([120.0, -9999.0, 131.0, 128.0], -9999.0),
        np.array([120.0, np.nan, 131.0, 128.0], np.float16),
        np.array([120.0, np.nan, 131.0, 128.0], np.longdouble),
        iter([120.0, None, 131.0, 128.0]),
    ],
    ids=["None", "decimals", "masked", "float16", "longdouble", "iterator"],
)
def test_a_missing_value_is_one_however_it_is_written(client: Client, values: Any) -> None:
    """What is under a mask is not taken for a value."""
    expected = client.forecast([[120.0, np.nan, 131.0, 128.0]], 2, missing="linear")[0]
    found = client.forecast([values], 2, missing="linear")[0]
    assert found.mean.tolist() == expected.mean.tolist()
    assert found.warnings == expected.warnings == ["1 missing values filled (linear)"]


@pytest.mark.parametrize(
    "start",
    [
        "2026-01-31",
        date(2026, 1, 31),
        datetime(2026, 1, 31),
        np.datetime64("2026-01-31"),
        np.datetime64("2026-01-31", "ns"),
    ],
    ids=["text", "date", "datetime", "datetime64 of days", "datetime64 of nanoseconds"],
)
def test_a_start_may_be_a_date_or_a_time(client: Client, start: object) -> None:
    series = {"values": np.array(WEEKS), "start": start, "freq": "D"}
    (result,) = client.forecast([series], np.int64(2))
    assert result.timestamps == ["2026-02-04T00:00:00", "2026-02-05T00:00:00"]


def test_a_time_keeps_its_zone(client: Client) -> None:
    series = MappingProxyType({"values": WEEKS, "start": datetime(2026, 1, 31, 12, tzinfo=UTC), "freq": "h"})
    assert client.forecast([series], 1)[0].timestamps == ["2026-01-31T16:00:00+00:00"]


@pytest.mark.parametrize(
    "levels",
    [[80], (80,), np.array([80]), range(80, 81), iter([80.0]), [np.float32(80)]],
    ids=["list", "tuple", "array", "range", "iterator", "number of numpy"],
)
def test_members_without_an_argument_of_their_own_keep_the_same_rule(client: Client, levels: Any) -> None:
    assert sorted(client.forecast([WEEKS], 2, levels=levels)[0].quantiles) == [0.1, 0.9]


@pytest.mark.parametrize(
    ("member", "value"),
    [("levels", {80}), ("levels", Table()), ("quantiles", b"0.1"), ("missing", object()), ("model", date)],
    ids=["set", "table", "bytes", "object", "class"],
)
def test_a_member_that_has_no_form_in_a_request_is_named(alone: Client, member: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{member}: "):
        alone.forecast([WEEKS], 2, **{member: value})
    with pytest.raises(ValueError, match=f"^{member}: "):
        alone.stream(**{"model": "stepper", member: value})


@pytest.mark.parametrize(
    ("member", "value"), [("levels", "80"), ("levels", 80), ("quantiles", {0.1: 0.9}), ("missing", ["linear"])]
)
def test_a_member_of_another_kind_is_for_the_service_to_refuse(client: Client, member: str, value: object) -> None:
    with pytest.raises(ApiError, match=member):
        client.forecast([WEEKS], 2, **{member: value})


def test_a_start_that_is_no_time_is_for_the_service_to_refuse(client: Client) -> None:
    batch = client.forecast([{"values": WEEKS, "start": start, "freq": "D"} for start in (5, np.datetime64("NaT"))], 2)
    assert [error.field for error in batch.errors.values()] == ["series[0].start", "series[1].start"]


def test_a_text_that_is_no_text_is_refused(alone: Client) -> None:
    with pytest.raises(ValueError, match=r"^inputs: b'a' is of type bytes"):
        alone.sentiment([b"a"])


def test_a_stream_refuses_what_it_could_not_send_and_goes_on(client: Client) -> None:
    """Such an input is not kept, where it would break every connection."""
    with client.stream("stepper", checkpoint_every=np.int64(2)) as stream:
        for values in (np.array([["2026-01-31", "2026-02-01"]], "datetime64[D]"), [["1", "2"]], 5.0, {}):
            with pytest.raises(ValueError, match="give k rows"):
                stream.step(values)
        assert (stream.outstanding, stream.unacknowledged) == (0, [])
        assert [output.step for output in stream.map(ROWS[:3, None])] == [1, 2, 3]
