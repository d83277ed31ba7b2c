"""The Python client of a Baton service: batch calls, steps and streams, with and without asyncio.

It knows the API alone, and needs nothing of the service. Invariant: an answer is the service's own or an exception.
"""

from baton_client.async_client import AsyncClient
from baton_client.async_stream import AsyncStream
from baton_client.client import Client
from baton_client.errors import ApiError, BatonError, ProtocolError, StreamInterrupted, Unreachable
from baton_client.inputs import NEW, StepItem
from baton_client.results import Batch, ForecastResult, SentimentResult, StepOutput, StepResult
from baton_client.stream import Stream

__version__ = "0.1.0"
__all__ = [
    "NEW",
    "ApiError",
    "AsyncClient",
    "AsyncStream",
    "Batch",
    "BatonError",
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
