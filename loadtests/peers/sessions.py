"""Sessions of a stateful model, each on a connection of its own: what a step is on the wire, and what it answers.

Plain sockets and bodies made beforehand: an HTTP or WebSocket library would cost more than the servers under load. It
knows the protocols, not how long they are loaded. Invariant: the n-th step of a session sends the same values whatever
the protocol, so that the same graph run in process says what every answer has to be.
"""

from __future__ import annotations

import json
import socket
from abc import ABC, abstractmethod
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from loadtests.frames import BINARY, Connection, client_frame, server_frame
from loadtests.models import FEATURES, OUTPUTS, STEP_MODEL
from loadtests.peers.environments import PeerError

Array = np.ndarray[Any, Any]
STEPS = 64  # distinct steps, in rotation
APART = 7  # steps between the places where two sessions begin
TIMEOUT_S, RECEIVED_BYTES = 30.0, 1 << 18
INPUTS: Array = np.random.default_rng(0).normal(size=(STEPS, FEATURES)).round(4).astype(np.float32)
TEXTS = [json.dumps([round(value, 4) for value in row]).encode() for row in INPUTS.astype(float).tolist()]
FRAMES = [client_frame(BINARY, row.astype("<f4").tobytes()) for row in INPUTS]
FRAME_HEAD = server_frame(BINARY, bytes(4 * OUTPUTS))[: -4 * OUTPUTS]


class Session(ABC):
    """A session that has taken `steps` steps; one is on its way at a time."""

    title: str

    def __init__(self, url: str, number: int) -> None:
        self._netloc, self._number = urlsplit(url).netloc, number
        self.steps, self._received, self._answer = 0, bytearray(), b""
        self.socket = self._connect(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *, last: bool = False) -> None:
        """Send the next step; `last` tells the server that no other follows."""
        self.socket.sendall(self._request((self._number * APART + self.steps) % STEPS, last))

    def receive(self) -> bool:
        """Read what has come; return whether the step is answered. Raises: PeerError for any other answer."""
        part = self.socket.recv(RECEIVED_BYTES)
        self._received += part
        answer = self._whole()
        if answer is None and not part:
            raise PeerError(f"{self.title}: the server closed a connection after {bytes(self._received[:200])!r}")
        if answer is None:
            return False
        self._answer = answer
        self._received.clear()
        self.steps += 1
        return True

    def sent(self, steps: int) -> Array:
        """Return the inputs [steps, features] of the first steps of this session."""
        return INPUTS[(self._number * APART + np.arange(steps)) % STEPS]

    @abstractmethod
    def outputs(self) -> Array:
        """Return the outputs of the last step that was answered."""

    @abstractmethod
    def _connect(self, url: str) -> socket.socket: ...

    @abstractmethod
    def _request(self, place: int, last: bool) -> bytes: ...

    @abstractmethod
    def _whole(self) -> bytes | None:
        """Return the answer if all of it has been received."""


class HttpSession(Session):
    """Requests on a connection that is kept open."""

    path: str

    def _connect(self, url: str) -> socket.socket:
        parts = urlsplit(url)
        connection = socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _post(self, body: bytes, more: str = "") -> bytes:
        head = f"POST {self.path} HTTP/1.1\r\nHost: {self._netloc}\r\nContent-Type: application/json\r\n{more}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _whole(self) -> bytes | None:
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        head = bytes(self._received[:end]).lower()
        _, _, length = head.partition(b"\r\ncontent-length:")
        if not head.startswith(b"http/1.1 200") or not length:
            raise PeerError(f"{self.title}: {bytes(self._received[:600])!r}")
        due = end + int(length.split(b"\r\n", 1)[0])
        return bytes(self._received[end:due]) if len(self._received) >= due else None


class TritonJson(HttpSession):
    """Triton's sequence batcher, tensors as JSON."""

    title, path = "Triton's sequence batcher, JSON", "/v2/models/lstm/infer"
    shape = b"[1,%d]"

    def _request(self, place: int, last: bool) -> bytes:
        flags: dict[str, object] = {
            "sequence_id": self._number + 1,  # 0 is no sequence
            "sequence_start": self.steps == 0,
            "sequence_end": last,
        }
        return self._encode(json.dumps(flags).encode(), place)

    def _encode(self, flags: bytes, place: int) -> bytes:
        shape = self.shape % FEATURES
        tensor = b'{"name":"x","shape":%b,"datatype":"FP32","data":%b}' % (shape, TEXTS[place])
        return self._post(b'{"parameters":%b,"inputs":[%b]}' % (flags, tensor))

    def outputs(self) -> Array:
        return np.array(json.loads(self._answer)["outputs"][0]["data"], np.float32)


class TritonBinary(TritonJson):
    """Triton's sequence batcher, tensors as bytes behind the JSON."""

    title = "Triton's sequence batcher, binary"

    def _encode(self, flags: bytes, place: int) -> bytes:
        tensor = b'{"name":"x","shape":%b,"datatype":"FP32","parameters":{"binary_data_size":%d}}'
        wanted = b'{"name":"y","parameters":{"binary_data":true}}'
        head = b'{"parameters":%b,"inputs":[%b],"outputs":[%b]}' % (
            flags,
            tensor % (self.shape % FEATURES, 4 * FEATURES),
            wanted,
        )
        return self._post(head + INPUTS[place].tobytes(), f"Inference-Header-Content-Length: {len(head)}\r\n")

    def outputs(self) -> Array:
        return np.frombuffer(self._answer[-4 * OUTPUTS :], "<f4")


class BatonJson(TritonJson):
    """Triton's sequences, tensors as JSON; the graph has a time axis, so that a step is [1, 1, features]."""

    title, path = "Baton, `/v2`, sequences, JSON", f"/v2/models/{STEP_MODEL}/infer"
    shape = b"[1,1,%d]"


class BatonBinary(TritonBinary):
    """The same, tensors as bytes behind the JSON."""

    title, path, shape = "Baton, `/v2`, sequences, binary", BatonJson.path, BatonJson.shape


class BatonToken(HttpSession):
    """`/v1/step`, the state in a token that travels."""

    title, path = "Baton, `/v1/step`, token", "/v1/step"
    hold = "client"
    _state = b""

    def _request(self, place: int, last: bool) -> bytes:
        state = b'"state":"%b",' % self._state if self.steps else b""
        return self._post(
            b'{"model":"%b","hold":"%b","items":[{%b"inputs":[%b]}]}'
            % (STEP_MODEL.encode(), self.hold.encode(), state, TEXTS[place])
        )

    def _whole(self) -> bytes | None:
        answer = super()._whole()
        if answer is not None:
            _, _, rest = answer.partition(b'"state":"')
            self._state = rest.partition(b'"')[0]
            if not self._state:
                raise PeerError(f"{self.title}: {answer[:600]!r}")
        return answer

    def outputs(self) -> Array:
        (result,) = json.loads(self._answer)["results"]
        if result.get("held", False) != (self.hold == "server"):
            raise PeerError(f"{self.title}: asked to hold at the {self.hold}, and got {result}")
        return np.array(result["outputs"]["y"], np.float32).ravel()


class BatonHeld(BatonToken):
    """`/v1/step`, the state held by the server."""

    title, hold = 'Baton, `/v1/step`, `"hold": "server"`', "server"


class BatonStream(Session):
    """`/v1/stream`, one step a binary frame."""

    title = "Baton, `/v1/stream`"

    def _connect(self, url: str) -> socket.socket:
        return Connection(f"{url}/v1/stream", json.dumps({"model": STEP_MODEL})).socket

    def _request(self, place: int, last: bool) -> bytes:
        return FRAMES[place]

    def _whole(self) -> bytes | None:
        if not self._received.startswith(FRAME_HEAD[: len(self._received)]):
            raise PeerError(f"{self.title}: {bytes(self._received[:600])!r}")
        whole = len(self._received) >= len(FRAME_HEAD) + 4 * OUTPUTS
        return bytes(self._received[len(FRAME_HEAD) :]) if whole else None

    def outputs(self) -> Array:
        return np.frombuffer(self._answer, "<f4")
