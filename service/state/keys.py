"""The keys that seal state tokens: made, kept in a file of the service's own, and gathered in a ring.

It knows keys and the file that keeps the service's own, not tokens. Invariants: a key is 32 bytes of base64url; a key
file that others can read is refused; of several processes that make the key at once all get the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import SettingsError

KEY_BYTES = 32
KEY_ID_BYTES = 4
SALT_BYTES = 24
KEY_FILE = "token.key"


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
        """Return the cipher of the token that has `salt`; None when the key is not in the ring."""
        key = self._keys.get(key_id)
        if key is None:
            return None
        return AESGCM(hashlib.blake2b(salt, key=key, person=b"baton token", digest_size=KEY_BYTES).digest())


def new_key() -> str:
    """Return a fresh key, fit for BATON_TOKEN_KEYS."""
    return _encode(secrets.token_bytes(KEY_BYTES))


def key_id(key: str, source: str) -> bytes:
    """Return the id of a key, which stands in the tokens that it seals.

    Raises: SettingsError, about `source`, when it is not 32 bytes of base64url.
    """
    return hashlib.sha256(b"baton key id" + _read_key(key, source)).digest()[:KEY_ID_BYTES]


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
