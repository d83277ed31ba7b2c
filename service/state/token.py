"""State tokens: a session's recurrent state, sealed so that only this service can make, read or use it.

A token is these bytes, which JSON carries as base64url (RFC 4648, section 5):

    version 1 byte | key id 4 | model fingerprint 16 | salt 24 | AES-256-GCM ciphertext and tag

and its plaintext is

    session id 16 bytes | step uint64 | issued uint64 ms | expires uint64 ms | form 1 byte | payload's bytes uint32
    payload | 0 to 2 zeros, so that base64url needs no padding

The form says what the payload is: the state itself, the state halved, or the name of a snapshot of it. Everything
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

import base64
import binascii
import hashlib
import os
import secrets
import stat
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import SettingsError, StateExpired, StateFromFuture, StateInvalid

VERSION = 3
KEY_BYTES = 32
KEY_FILE = "token.key"
HEADER = struct.Struct("<B4s16s")
SALT_BYTES = 24
NONCE = bytes(12)
RANDOM_BYTES = 16_384  # drawn at a time: a system call gives up the GIL, and then waits for a run
TAG_BYTES = 16
BODY = struct.Struct("<16sQQQBI")
OVERHEAD_BYTES = HEADER.size + SALT_BYTES + BODY.size + TAG_BYTES
INVALID = "the state token is damaged, was not made by this service, or belongs to someone else"


class Form(IntEnum):
    """What a token's payload is."""

    EXACT = 0  # the state's tensors, raw little-endian, in manifest order
    HALVED = 1  # the same with float32 tensors as float16
    HELD = 2  # the name of the state's snapshot in the store


FORMS = tuple(Form)  # looking one up here costs a tenth of calling Form


@dataclass(slots=True)
class Session:
    """One point of one session. Units: times in milliseconds since 1970 UTC."""

    id: bytes
    step: int
    issued_ms: int
    expires_ms: int
    form: Form
    payload: bytes


class KeyRing:
    """Keys by their id; the first seals, all open.

    Raises: SettingsError for a key that is not 32 bytes of base64url.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys: dict[bytes, bytes] = {}
        for number, text in enumerate(keys, start=1):
            source = f"token key {number} of {len(keys)}"
            self._keys[key_id(text, source)] = _read_key(text, source)
        self.newest_id = next(iter(self._keys))

    def cipher(self, key_id: bytes, salt: bytes) -> AESGCM | None:
        """Return the cipher of the one token that has `salt`; None for a key that is not in the ring."""
        key = self._keys.get(key_id)
        if key is None:
            return None
        return AESGCM(hashlib.blake2b(salt, key=key, person=b"baton token", digest_size=KEY_BYTES).digest())


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
            raise StateInvalid(INVALID, reason="too_long")
        if len(token) < OVERHEAD_BYTES:
            raise StateInvalid(INVALID, reason="too_short")
        version, _, fingerprint = HEADER.unpack_from(token)
        if version != VERSION:
            raise StateInvalid(INVALID, reason="unknown_version")
        claimed: bytes = fingerprint
        return claimed

    def open(self, token: bytes, *, tenant: str) -> Session:
        """Decrypt and authenticate a token that `maker` has looked at.

        Raises: StateInvalid for a token that is not ours or not this tenant's; StateExpired for one that is too old;
        StateFromFuture for one that comes too early.
        """
        header, salt = token[: HEADER.size], token[HEADER.size : HEADER.size + SALT_BYTES]
        key = HEADER.unpack(header)[1]
        cipher = self._keys.cipher(key, salt)
        if cipher is None:
            raise StateInvalid(INVALID, reason="unknown_key", detail=key.hex())
        try:
            body = cipher.decrypt(NONCE, token[HEADER.size + SALT_BYTES :], header + tenant.encode())
        except InvalidTag:
            raise StateInvalid(INVALID, reason="not_authentic") from None
        session_id, step, issued_ms, expires_ms, form, size = BODY.unpack_from(body)
        payload = body[BODY.size : BODY.size + size]
        session = Session(session_id, step, issued_ms, expires_ms, FORMS[form], payload)
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


def model_ended() -> StateExpired:
    """Return why a session cannot go on once the version of its model has retired for good."""
    return StateExpired("the model version of this session has come to its end; begin a new session", reason="ended")


def _random(size: int) -> Iterator[bytes]:
    """Yield random bytes, `size` at a time."""
    while True:
        block = os.urandom(RANDOM_BYTES // size * size)
        yield from (block[start : start + size] for start in range(0, len(block), size))


def token_chars(payload_bytes: int) -> int:
    """Return how many characters a token with such a payload has."""
    return 4 * -(-(OVERHEAD_BYTES + payload_bytes) // 3)


def new_session_id() -> bytes:
    return secrets.token_bytes(16)


def new_key() -> str:
    """Return a fresh key, fit for BATON_TOKEN_KEYS."""
    return _encode(secrets.token_bytes(KEY_BYTES))


def key_id(key: str, source: str) -> bytes:
    """Return the id of a key, which stands in the tokens that it seals.

    Raises: SettingsError, about `source`, when it is not 32 bytes of base64url.
    """
    return hashlib.sha256(b"baton key id" + _read_key(key, source)).digest()[:4]


def kept_key(directory: Path) -> str | None:
    """Return the key kept in `directory`, None where none has been made yet.

    Raises: SettingsError when it is damaged, or can be read by others.
    """
    file = directory / KEY_FILE
    try:
        if not file.exists():
            return None
        mode, key = stat.S_IMODE(file.stat().st_mode), file.read_text("latin-1")
    except OSError as failure:
        raise _unusable(directory, failure) from failure
    if mode & 0o077:
        raise SettingsError(f"{file} can be read by others (mode {mode:04o}): chmod 600 it, or make a new key")
    _read_key(key, str(file))
    return key


def load_or_create_key(directory: Path) -> tuple[str, bool]:
    """Return the key kept in `directory`, and whether it was made just now (readable by its owner alone).

    Several workers may call this at once: all get the key of the first.

    Raises: SettingsError when the directory cannot be used, or its key is damaged or readable by others.
    """
    if (key := kept_key(directory)) is not None:
        return key, False
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = directory / f".{KEY_FILE}.{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(new_key().encode())
            out.flush()
            os.fsync(out.fileno())
        created = _link(draft, directory / KEY_FILE)
    except OSError as failure:
        raise _unusable(directory, failure) from failure
    key = kept_key(directory)
    assert key is not None
    return key, created


def _unusable(directory: Path, failure: OSError) -> SettingsError:
    return SettingsError(
        f"the token key cannot be kept in {directory} ({failure}); set BATON_STATE_DIR to a directory that this "
        "user may write, or BATON_TOKEN_KEYS to keys of your own"
    )


def _read_key(text: str, source: str) -> bytes:
    try:
        key = _decode(text.strip())
    except (binascii.Error, UnicodeEncodeError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{source} is not {KEY_BYTES} bytes of base64url")
    return key


def _link(draft: Path, file: Path) -> bool:
    """Give the finished `draft` its name, unless another process was first."""
    try:
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
