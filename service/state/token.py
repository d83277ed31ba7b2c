"""State tokens: a session's recurrent state, sealed so that only this service can make, read or use it.

A token is these bytes, which JSON carries as base64url (RFC 4648, section 5):

    version 1 byte | key id 4 | model fingerprint 16 | salt 24 | AES-256-GCM ciphertext and tag

and its plaintext is

    session id 16 bytes | step uint64 | issued uint64 ms | expires uint64 ms | form 1 byte | payload's bytes uint32
    payload | 0 to 2 zeros, so that base64url needs no padding

The form says what the payload is: the state, the state cut to float16, or the name of a snapshot of it. Everything
before the salt, and the tenant, is bound as associated data; the fingerprint is a hash of the model's name, version
and weights, so those are bound as well, and a token can be told genuine even when its model is gone. Each token is
encrypted under a key of its own, derived from the ring's key and the token's random salt with keyed BLAKE2b (RFC
7693), so the nonce is fixed: with 192 random bits, 2^80 tokens of one key repeat a salt with probability 2^-33. (AES-
GCM under the ring's key itself, with random 96-bit nonces, would stop being safe at 2^32 tokens, which streams reach.)

It knows keys, models' fingerprints and bytes; not HTTP, not numpy, not what a payload means. Time comes from an
injected clock. Invariant: a token opens to exactly what was sealed, for the same tenant and model, before it expires;
anything else raises.
"""

from __future__ import annotations

import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag

from service.errors import StateExpired, StateFromFuture, StateInvalid, model_ended
from service.state.keys import KEY_ID_BYTES, SALT_BYTES, KeyRing

VERSION = 3
HEADER = struct.Struct(f"<B{KEY_ID_BYTES}s16s")
NONCE = bytes(12)
RANDOM_BYTES = 16_384  # drawn at a time: a system call gives up the GIL, and then waits for a run
TAG_BYTES = 16
BODY = struct.Struct("<16sQQQBI")
OVERHEAD_BYTES = HEADER.size + SALT_BYTES + BODY.size + TAG_BYTES


class Form(IntEnum):
    """What a token's payload is."""

    EXACT = 0  # the state's tensors, raw little-endian, in manifest order
    FLOAT16 = 1  # the same with float32 tensors as float16
    HELD = 2  # the name of the state's snapshot in the store


FORMS = tuple(Form)  # looking one up here costs a tenth of calling Form


@dataclass(slots=True)
class OpenedToken:
    """One point of one session. Units: times in milliseconds since 1970 UTC."""

    id: bytes
    step: int
    issued_ms: int
    expires_ms: int
    form: Form
    payload: bytes


class Sealer:
    """Seals sessions into tokens, and opens those whose makers' clocks are ahead by `skew_s` at most."""

    def __init__(self, keys: KeyRing, *, ttl_s: int, skew_s: int, clock: Callable[[], float] = time.time) -> None:
        self._keys, self._ttl_ms, self._skew_ms, self._clock = keys, 1000 * ttl_s, 1000 * skew_s, clock
        self._salts = _random(SALT_BYTES)

    def seal(
        self,
        payload: bytes,
        *,
        form: Form = Form.EXACT,
        session_id: bytes,
        step: int,
        fingerprint: bytes,
        tenant: str,
        expires_before_ms: int | None = None,
    ) -> tuple[bytes, int]:
        """Return the token and the time it expires, in milliseconds since 1970: `expires_before_ms` at the latest.

        Raises: StateExpired when that has passed.
        """
        now_ms = int(1000 * self._clock())
        expires_ms = now_ms + self._ttl_ms
        if expires_before_ms is not None:
            expires_ms = min(expires_ms, expires_before_ms)
            if expires_ms <= now_ms:
                raise model_ended()
        header = HEADER.pack(VERSION, self._keys.newest_id, fingerprint)
        salt = next(self._salts)
        cipher = self._keys.cipher(self._keys.newest_id, salt)
        assert cipher is not None
        filler = bytes(-(OVERHEAD_BYTES + len(payload)) % 3)
        body = BODY.pack(session_id, step, now_ms, expires_ms, form, len(payload)) + payload + filler
        return header + salt + cipher.encrypt(NONCE, body, header + tenant.encode()), expires_ms

    def maker(self, token: bytes, *, longest_payload_bytes: int) -> bytes:
        """Return the fingerprint of the model that made `token`, as it says; `open` tells whether that is true.

        Raises: StateInvalid when it cannot be a token, by its length and first bytes, before any cryptography.
        """
        if len(token) > OVERHEAD_BYTES + longest_payload_bytes + 2:
            raise StateInvalid(reason="too_long")
        if len(token) < OVERHEAD_BYTES:
            raise StateInvalid(reason="too_short")
        version, _, fingerprint = HEADER.unpack_from(token)
        if version != VERSION:
            raise StateInvalid(reason="unknown_version")
        claimed: bytes = fingerprint
        return claimed

    def open(self, token: bytes, *, tenant: str) -> OpenedToken:
        """Decrypt and authenticate a token that `maker` has looked at.

        Raises: StateInvalid for a token that is not ours or not this tenant's; StateExpired when its time is over;
        StateFromFuture when its time has not come.
        """
        header, salt = token[: HEADER.size], token[HEADER.size : HEADER.size + SALT_BYTES]
        key = HEADER.unpack(header)[1]
        cipher = self._keys.cipher(key, salt)
        if cipher is None:
            raise StateInvalid(reason="unknown_key", detail=key.hex())
        try:
            body = cipher.decrypt(NONCE, token[HEADER.size + SALT_BYTES :], header + tenant.encode())
        except InvalidTag:
            raise StateInvalid(reason="not_authentic") from None
        session_id, step, issued_ms, expires_ms, form, size = BODY.unpack_from(body)
        payload = body[BODY.size : BODY.size + size]
        session = OpenedToken(session_id, step, issued_ms, expires_ms, FORMS[form], payload)
        now_ms = int(1000 * self._clock())
        if now_ms >= session.expires_ms:
            raise StateExpired("the state token has expired; begin a new session", reason="expired")
        early_ms = session.issued_ms - self._skew_ms - now_ms
        if early_ms > 0:
            message = (
                f"the state token is dated {session.issued_ms - now_ms} ms after this server's time, and "
                f"{self._skew_ms} ms are let pass: the replicas' clocks differ; try again, perhaps elsewhere"
            )
            raise StateFromFuture(message, reason="from_the_future", retry_after_ms=early_ms)
        return session


def _random(size: int) -> Iterator[bytes]:
    """Yield random bytes, `size` at a time."""
    while True:
        block = os.urandom(RANDOM_BYTES // size * size)
        yield from (block[start : start + size] for start in range(0, len(block), size))


def token_chars(payload_bytes: int) -> int:
    """Return how many characters a token has whose payload has so many bytes."""
    return 4 * -(-(OVERHEAD_BYTES + payload_bytes) // 3)


def new_session_id() -> bytes:
    return secrets.token_bytes(16)
