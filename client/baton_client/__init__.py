"""The Python client of a Baton service: batch calls, steps, generated texts and streams, with and without asyncio.

It knows the API alone, and needs nothing of the service. Invariant: an answer is the service's own or an exception.
"""

from baton_client.async_client import AsyncClient
from baton_client.async_stream import AsyncStream
from baton_client.client import Client
from baton_client.errors import ApiError, BatonError, ProtocolError, StreamInterrupted, Unreachable
from baton_client.generation import Generation
from baton_client.inputs import NEW, StepItem
from baton_client.results import (
    Batch,
    Choice,
    ClassifyResult,
    ForecastResult,
    GenerateEvent,
    GenerateResult,
    SentimentResult,
    StepOutput,
    StepResult,
    Tag,
    TagResult,
    TransformResult,
)
from baton_client.stream import Stream
from baton_client.translations import Attention, TranslateResult, Translation

__version__ = "0.1.0"
__all__ = [
    "NEW",
    "ApiError",
    "AsyncClient",
    "AsyncStream",
    "Attention",
    "Batch",
    "BatonError",
    "Choice",
    "ClassifyResult",
    "Client",
    "ForecastResult",
    "GenerateEvent",
    "GenerateResult",
    "Generation",
    "ProtocolError",
    "SentimentResult",
    "StepItem",
    "StepOutput",
    "StepResult",
    "Stream",
    "StreamInterrupted",
    "Tag",
    "TagResult",
    "TransformResult",
    "TranslateResult",
    "Translation",
    "Unreachable",
]
