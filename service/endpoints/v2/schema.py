"""The JSON of the protocol's inference: a request with its tensors, and the answer to it.

It knows the protocol's forms, not models. Invariant: a member or parameter that nothing here acts upon is refused, but
for those that common clients send and no answer depends on.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.errors import InvalidRequest
from service.web.context import Call
from service.web.schema import Strict, Token, read_whole

MAX_TENSORS = 64
HEAD_BYTES = b"inference-header-content-length"
SequenceId = Annotated[int, Field(ge=0, lt=2**64)] | Annotated[str, Field(max_length=128)]


class InputParameters(Strict):
    binary_data_size: int | None = Field(default=None, ge=0, description="bytes of the tensor behind the JSON")
    content_type: Any = Field(default=None, description="not looked at")


NO_INPUT_PARAMETERS = InputParameters()  # also where null is given: some clients send their empty members


class InputTensor(Strict):
    name: str
    datatype: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=8)
    given: InputParameters | None = Field(default=None, alias="parameters")
    data: list[Any] | None = Field(default=None, description="row-major, flat or nested as the shape is")

    @property
    def parameters(self) -> InputParameters:
        return self.given or NO_INPUT_PARAMETERS


class OutputParameters(Strict):
    binary_data: bool | None = Field(default=None, description="whether the tensor is to come as bytes behind the JSON")
    classification: int = Field(default=0, ge=0, description="so many of the largest values, as value:index[:label]")
    content_type: Any = Field(default=None, description="not looked at")


NO_OUTPUT_PARAMETERS = OutputParameters()


class RequestedOutput(Strict):
    name: str
    given: OutputParameters | None = Field(default=None, alias="parameters")

    @property
    def parameters(self) -> OutputParameters:
        return self.given or NO_OUTPUT_PARAMETERS


class Parameters(Strict):
    """What a request can ask besides. Units: timeout in microseconds."""

    state_token: Token | None = Field(default=None, description="the state that the only row goes on from")
    sequence_id: SequenceId | None = Field(default=None, description="whose state the server keeps")
    sequence_start: bool = False
    sequence_end: bool = False
    timeout: int = Field(default=0, ge=0, description="how long the request may wait for its run, at most the default")
    binary_data_output: bool = Field(default=False, description="whether outputs are to come as bytes behind the JSON")
    priority: Any = Field(default=None, description="not looked at, as are the following")
    content_type: Any = None
    headers: Any = None

    @property
    def speaks_of_sequence(self) -> bool:
        return self.sequence_id is not None or self.sequence_start or self.sequence_end


NO_PARAMETERS = Parameters()


class InferRequest(Strict):
    """A request for one model: tensors whose rows are run."""

    id: str | None = Field(default=None, description="returned with the answer")
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=MAX_TENSORS, fail_fast=True)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=MAX_TENSORS, fail_fast=True)] | None = Field(
        None, description="which are wanted; by default all"
    )
    given: Parameters | None = Field(default=None, alias="parameters")
    model_name: str | None = Field(default=None, description="the model of the path again, as KServe's client sends")

    @property
    def parameters(self) -> Parameters:
        return self.given or NO_PARAMETERS


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(default=None, description="row-major and flat; left out where bytes follow the JSON")


class InferAnswer(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputTensor]


def read_request(call: Call, body: bytes) -> InferRequest:
    """Read the JSON of a body; where a header tells its length, the bytes behind it are left as the call's tail.

    Raises: InvalidRequest and its kin.
    """
    length = call.fields.get(HEAD_BYTES)
    if length is None:
        return read_whole(InferRequest, body)
    if not length.isdigit() or len(length) > 10 or not 0 < int(length) <= len(body):
        told = length[:20].decode("latin-1")
        message = f"{told!r} is not the length of JSON in a body of {len(body)} bytes; there is no request without JSON"
        raise InvalidRequest(message, field="Inference-Header-Content-Length")
    end = int(length)
    call.tail = body[end:]
    return read_whole(InferRequest, body[:end])
