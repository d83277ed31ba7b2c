"""The Python client of the service: batch calls, steps and streams, sync and async.

It needs the extra `client` (httpx, websockets, tenacity) and loads no part of the server.
"""

from service.client.asynchronous import AsyncClient
from service.client.blocking import Client, Stream
from service.client.errors import ApiError, ProtocolError, StreamInterrupted, Unreachable
from service.client.inputs import NEW, StepItem
from service.client.results import Batch, ForecastResult, SentimentResult, StepOutput, StepResult
from service.client.streaming import AsyncStream

__all__ = [
    "NEW",
    "ApiError",
    "AsyncClient",
    "AsyncStream",
    "Batch",
    "Client",
    "ForecastResult",
    "ProtocolError",
    "SentimentResult",
    "StepItem",
    "StepOutput",
    "StepResult",
    "Stream",
    "StreamInterrupted",
    "Unreachable",
]
