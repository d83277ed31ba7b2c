"""What the client makes of errors: the service's codes, and those that it does not know."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from sums import Sum

from baton_client import ApiError, Batch
from baton_client.errors import STATUSES, read_refusal
from baton_client.journal import Journal
from baton_client.results import read_sentiment
from service.errors import RequestError

UNKNOWN = {"code": "of_tomorrow", "message": "not today"}


def leaves(kind: type[RequestError]) -> list[type[RequestError]]:
    return [leaf for child in kind.__subclasses__() for leaf in leaves(child)] or [kind]


def test_the_codes_and_their_statuses_are_those_of_the_service() -> None:
    assert {leaf.code: leaf.status for leaf in leaves(RequestError)} == STATUSES


@pytest.mark.parametrize(("status", "transient"), [(418, False), (500, False), (503, True)])
def test_an_unknown_code_has_the_status_that_it_came_with(status: int, transient: bool) -> None:
    refusal = read_refusal(status, {}, json.dumps({"error": UNKNOWN}).encode())
    assert (refusal.code, refusal.status, refusal.transient) == ("of_tomorrow", status, transient)


def test_retry_after_is_read_in_each_of_its_forms() -> None:
    def asked(value: str, **members: object) -> float | None:
        body = json.dumps({"error": {"code": "draining", "message": "", **members}}).encode()
        return read_refusal(503, {"retry-after": value}, body).retry_after

    assert asked("3") == 3
    assert asked("3", retry_after_ms=2500) == 2.5
    assert asked("soon") is None
    begun = datetime.now(UTC)
    until = asked(format_datetime(begun + timedelta(seconds=100), usegmt=True))
    assert until is not None
    assert until + (datetime.now(UTC) - begun).total_seconds() >= 99  # a header holds whole seconds
    assert until <= 100
    for past in ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 -0000"):
        assert asked(past) == 0
    assert asked("0.2") == 0.2
    for endless in ("inf", "nan", "-1", ""):
        assert asked(endless) is None


def test_an_item_with_an_unknown_code_raises_where_it_is_read() -> None:
    answer = {"model": "m", "version": "1", "usage": {}, "timing_ms": {}, "results": [{"error": UNKNOWN}]}
    batch = Batch(answer, read_sentiment)
    with pytest.raises(ApiError, match="of_tomorrow: not today") as refused:
        batch[0]
    assert (refused.value.status, refused.value.transient) == (None, False)


def test_an_unknown_code_refuses_an_input_of_a_stream_or_ends_it() -> None:
    journal = Journal({"model": "sum", "return": "last", "checkpoint_every": 3}, binary=False)
    journal.opened(Sum(journal.opening()).said.popleft())
    journal.add([1.0])
    journal.next_frame()
    frame = {"type": "error", "final": False, "step": 0, "error": UNKNOWN}
    assert [str(news) for news in journal.receive(json.dumps(frame))] == ["of_tomorrow: not today"]
    with pytest.raises(ApiError, match="of_tomorrow"):
        journal.receive(json.dumps(frame | {"final": True}))
