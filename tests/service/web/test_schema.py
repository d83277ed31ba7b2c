"""The JSON forms by themselves: a body is read whole or refused, a wrong item is set aside and its neighbours stay."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from pydantic import Field

from service.errors import (
    BatchTooLarge,
    EmptyInput,
    InvalidRequest,
    MalformedJson,
    NotFinite,
    RequestError,
    StateInvalid,
)
from service.web.schema import BatchRequest, Strict, Token, parse, read_whole


class Point(Strict):
    id: str | None = None
    values: list[float]
    state: Token | None = None


class Points(BatchRequest):
    task = "step"
    items_field = "points"

    points: Annotated[list[Point], Field(max_length=100)]


def refused(body: bytes, **more: int) -> RequestError:
    with pytest.raises(RequestError) as error:
        parse(Points, body, **{"max_items": 3, **more})
    return error.value


def body(*points: Any, **members: Any) -> bytes:
    return json.dumps({"points": points, **members}).encode()


def test_a_request_is_read_whole() -> None:
    read, rejected = parse(Points, body({"values": [1, 2.5]}, {"values": [], "id": "b"}), max_items=3)
    assert [(point.id, point.values) for point in read.points] == [(None, [1.0, 2.5]), ("b", [])]
    assert rejected == {}


def test_a_wrong_item_is_set_aside_with_its_place_and_id() -> None:
    wrong = {"values": ["x"], "id": "mine"}
    read, rejected = parse(Points, body({"values": [1]}, wrong, {"values": [3]}), max_items=3)
    assert [point.values for point in read.points] == [[1.0], [3.0]]
    assert list(rejected) == [1]
    assert rejected[1].id == "mine"
    assert rejected[1].error.field == "points[1].values[0]"


@pytest.mark.parametrize(
    ("point", "error", "field"),
    [
        ({"values": [1], "state": "not base64!"}, StateInvalid, "points[0].state"),
        ({"values": [1], "stat": ""}, InvalidRequest, "points[0].stat"),
        ({}, InvalidRequest, "points[0].values"),
        ({"values": [True]}, InvalidRequest, "points[0].values[0]"),
    ],
)
def test_an_item_s_mistake_has_its_code_and_field(point: Any, error: type[RequestError], field: str) -> None:
    _, rejected = parse(Points, body(point, {"values": [1]}), max_items=3)
    assert (type(rejected[0].error), rejected[0].error.field) == (error, field)


def test_numbers_that_are_not_finite_are_refused_by_name() -> None:
    _, rejected = parse(Points, b'{"points": [{"values": [1, 1e999]}, {"values": [1]}]}', max_items=3)
    assert (type(rejected[0].error), rejected[0].error.field) == (NotFinite, "points[0].values[1]")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (b"", MalformedJson),
        (b"{", MalformedJson),
        (b"[1, 2]", InvalidRequest),
        (b'{"points": []}', EmptyInput),
        (body({"values": []}, {"values": []}, {"values": []}, {"values": []}), BatchTooLarge),
        (body({"values": []}, model=5), InvalidRequest),
        (body({"values": []}, pionts=1), InvalidRequest),
        ('{"points": []}'.encode("utf-16"), MalformedJson),
    ],
)
def test_a_request_that_is_wrong_as_a_whole_is_refused(given: bytes, error: type[RequestError]) -> None:
    assert type(refused(given)) is error


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse(Points, b"\xef\xbb\xbf" + body({"values": [1]}), max_items=3)[0].points[0].values == [1.0]
    assert read_whole(Point, '\ufeff{"values": [2]}').values == [2.0]


def test_tokens_are_base64url() -> None:
    read, _ = parse(Points, body({"values": [1], "state": "_-8"}), max_items=3)
    assert read.points[0].state == b"\xff\xef"


def test_an_object_that_stands_alone_tells_its_first_mistake() -> None:
    with pytest.raises(InvalidRequest, match="vales is no member of this request"):
        read_whole(Point, '{"values": [1], "vales": 2}')
    with pytest.raises(MalformedJson):
        read_whole(Point, "{")
