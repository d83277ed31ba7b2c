"""State tokens: a session's recurrent state, sealed so that only this service can make, read or use it.

A token is base64url (no padding) of

    version 1 byte | key id 4 | model fingerprint 16 | nonce 12 | AES-256-GCM-SIV ciphertext and tag

and its plaintext is

    session id 16 bytes | step uint64 | issued uint64 ms | expires uint64 ms | state tensors, little-endian

with the tensors in manifest order. Everything before the nonce, and the tenant, is bound as associated data; the
fingerprint is a hash of the model's name, version and weights, so those are bound as well, and a token can be told
genuine even when its model is gone. GCM-SIV (RFC 8452) survives a repeated nonce, so random nonces are safe for as many
tokens as streams make: a repeat of nonce, key and plaintext reveals only that two tokens are equal.

It knows keys, models' fingerprints and bytes; not HTTP, not numpy. Time comes from an injected clock. Invariant: a
token opens to exactly what was sealed, for the same tenant and model, before it expires; anything else raises.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from service.errors import SettingsError, StateExpired, StateInvalid

VERSION = 1
KEY_BYTES = 32
KEY_FILE = "token.key"
HEADER = struct.Struct("<B4s16s")
NONCE_BYTES = 12
TAG_BYTES = 16
BODY = struct.Struct("<16sQQQ")
OVERHEAD_BYTES = HEADER.size + NONCE_BYTES + BODY.size + TAG_BYTES
INVALID = "the state token is damaged, was not made by this service, or belongs to someone else"


@dataclass(frozen=True, slots=True)
class Session:
    """One point of one session. Units: times in milliseconds since 1970 UTC; `state` is raw little-endian bytes."""

    id: bytes
    step: int
    issued_ms: int
    expires_ms: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded token that is not yet opened; the fingerprint tells which model made it."""

    raw: bytes
    fingerprint: bytes


class KeyRing:
    """Keys by their id; the first seals, all open.

    Raises: SettingsError for a key that is not 32 bytes of base64url.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys: dict[bytes, AESGCMSIV] = {}
        for number, text in enumerate(keys, start=1):
            key = _read_key(text, f"token key {number} of {len(keys)}")
            self._keys[hashlib.sha256(b"baton key id" + key).digest()[:4]] = AESGCMSIV(key)
        self.newest_id = next(iter(self._keys))

    def get(self, key_id: bytes) -> AESGCMSIV | None:
        return self._keys.get(key_id)

    def newest(self) -> AESGCMSIV:
        return self._keys[self.newest_id]


class Sealer:
    """Seals sessions into tokens and opens them again."""

    def __init__(self, keys: KeyRing, *, ttl_s: int, clock: Callable[[], float] = time.time) -> None:
        self._keys, self._ttl_ms, self._clock = keys, 1000 * ttl_s, clock

    def seal(self, state: bytes, *, session_id: bytes, step: int, fingerprint: bytes, tenant: str) -> tuple[str, int]:
        """Return the token and the time it expires, in milliseconds since 1970."""
        now_ms = int(1000 * self._clock())
        expires_ms = now_ms + self._ttl_ms
        header = HEADER.pack(VERSION, self._keys.newest_id, fingerprint)
        nonce = os.urandom(NONCE_BYTES)
        body = BODY.pack(session_id, step, now_ms, expires_ms) + state
        sealed = self._keys.newest().encrypt(nonce, body, header + tenant.encode())
        return _encode(header + nonce + sealed), expires_ms

    def decode(self, token: str, *, longest_state_bytes: int) -> Envelope:
        """Decode the outer form, after looking at the length and before any cryptography.

        Raises: StateInvalid when it cannot be a token.
        """
        if len(token) > token_chars(longest_state_bytes):
            raise StateInvalid(INVALID, reason="too_long")
        try:
            raw = _decode(token)
        except (binascii.Error, UnicodeEncodeError):
            raise StateInvalid(INVALID, reason="not_base64url") from None
        if _encode(raw) != token:  # other spellings of the same bytes: padding, unused bits of the last character
            raise StateInvalid(INVALID, reason="not_canonical")
        if len(raw) < OVERHEAD_BYTES:
            raise StateInvalid(INVALID, reason="too_short")
        version, _, fingerprint = HEADER.unpack_from(raw)
        if version != VERSION:
            raise StateInvalid(INVALID, reason="unknown_version")
        return Envelope(raw, fingerprint)

    def open(self, envelope: Envelope, *, tenant: str) -> Session:
        """Decrypt and authenticate; the caller still has to ask whether it holds the envelope's model.

        Raises: StateInvalid for a token that is not ours or not this tenant's; StateExpired for one that is too old.
        """
        raw = envelope.raw
        header, nonce = raw[: HEADER.size], raw[HEADER.size : HEADER.size + NONCE_BYTES]
        key = self._keys.get(HEADER.unpack(header)[1])
        if key is None:
            raise StateInvalid(INVALID, reason="unknown_key")
        try:
            body = key.decrypt(nonce, raw[HEADER.size + NONCE_BYTES :], header + tenant.encode())
        except InvalidTag:
            raise StateInvalid(INVALID, reason="not_authentic") from None
        session_id, step, issued_ms, expires_ms = BODY.unpack_from(body)
        session = Session(session_id, step, issued_ms, expires_ms, state=body[BODY.size :])
        if int(1000 * self._clock()) >= session.expires_ms:
            raise StateExpired("the state token has expired; begin a new session", reason="expired")
        return session


def new_session_id() -> bytes:
    return secrets.token_bytes(16)


def token_chars(state_bytes: int) -> int:
    """Return the length of the token that carries `state_bytes` bytes of state."""
    return (8 * (OVERHEAD_BYTES + state_bytes) + 5) // 6


def load_or_create_key(directory: Path) -> tuple[str, bool]:
    """Return the key kept in `directory`, and whether it was made just now (readable by its owner alone).

    Several workers may call this at once: all get the key of the first.

    Raises: SettingsError when the directory cannot be used, or its key is damaged or readable by others.
    """
    file = directory / KEY_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = directory / f".{KEY_FILE}.{secrets.token_hex(8)}"
        created = not file.exists()
        if created:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(_encode(secrets.token_bytes(KEY_BYTES)).encode())
                out.flush()
                os.fsync(out.fileno())
            created = _link(draft, file)
        if (mode := stat.S_IMODE(file.stat().st_mode)) & 0o077:
            raise SettingsError(f"{file} can be read by others (mode {mode:04o}): chmod 600 it, or make a new key")
        key = file.read_text("latin-1")
        _read_key(key, str(file))
        return key, created
    except OSError as failure:
        raise SettingsError(
            f"the token key cannot be kept in {directory} ({failure}); set BATON_STATE_DIR to a directory that this "
            "user may write, or BATON_TOKEN_KEYS to keys of your own"
        ) from failure


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
