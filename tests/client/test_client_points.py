"""The Python client's handwriting: the points that the service answers, as arrays, and their picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import Server

from baton_client import ApiError, Client

WRITE: dict[str, Any] = {"model": "penman", "condition": "abc de", "seed": 3, "max_steps": 12, "bias": 0.5}


@pytest.fixture
def client(pens: Server) -> Iterator[Client]:
    with Client(pens.url) as client:
        yield client


def test_points_are_what_the_service_answers(client: Client, pens: Server) -> None:
    (choice,) = client.generate(**WRITE, svg=True).choices
    body = {**WRITE, "svg": True, "items": [{"condition": {"text": WRITE["condition"]}}]}
    del body["condition"]
    ((other,),) = [result["choices"] for result in pens.post("/v1/generate", body).json()["results"]]
    assert choice.points is not None
    assert choice.points.shape == (12, 3)
    np.testing.assert_allclose(choice.points, other["points"], atol=1e-3)
    assert (choice.text, choice.ids, choice.finish, choice.step) == (None, None, "length", 13)
    assert choice.svg is not None
    assert choice.svg.startswith("<svg ")
    assert client.generate(**WRITE).choices[0].svg is None


def test_points_go_on_from_a_state_and_from_points(client: Client) -> None:
    (whole,) = client.generate(**WRITE).choices
    (half,) = client.generate(**{**WRITE, "max_steps": 5}).choices
    more = {**WRITE, "max_steps": 7, "condition": None}
    (rest,) = client.generate(state=half.state, **more).choices
    assert half.points is not None
    assert rest.points is not None
    np.testing.assert_allclose(np.concatenate([half.points, rest.points]), whole.points, atol=1e-3)
    (prompted,) = client.generate(half.points, **{**WRITE, "max_steps": 7}).choices
    np.testing.assert_allclose(prompted.points, rest.points, atol=1e-3)


def test_a_stream_has_points_and_at_its_end_the_picture(client: Client) -> None:
    (whole,) = client.generate(**WRITE).choices
    with client.generate_stream(**WRITE, svg=True) as events:
        told = list(events)
    assert len(told) > 2
    np.testing.assert_allclose(np.concatenate([event.points for event in told]), whole.points, atol=1e-3)
    assert [event.svg is None for event in told] == [True] * (len(told) - 1) + [False]


def test_what_is_for_ids_is_refused_as_the_service_says(client: Client) -> None:
    with pytest.raises(ApiError, match="'penman' draws points, for which this has no meaning; leave top_k out"):
        client.generate(**WRITE, top_k=3)
