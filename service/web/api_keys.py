"""API keys as they are kept: whose each is, until when it opens, and a hash of it.

A key is `baton_<id>_<secret>`; the id finds the entry, and is no secret. The secret has 256 random bits, so nobody can
guess it, and a hash of it need not be slow: argon2 and scrypt are for passwords, and would take a core for tens of
milliseconds of each request. The hash is BLAKE2b (RFC 7693) keyed with a salt of the entry, so equal secrets would not
look alike and no table made beforehand helps. It knows files and the environment, not requests. Invariants: no secret
is written anywhere; an entry is never removed, for a service whose last key was revoked must not be open to all.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from service.errors import CommandError, SettingsError
from service.settings import PREFIX, Settings

KEYS_FILE = "api-keys.json"
MARK = "baton"
ID_BYTES, SECRET_BYTES, SALT_BYTES, HASH_BYTES = 6, 32, 16, 32
MOST_CHARS = 128  # of a key that is looked at
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]


def _printable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("printable characters, and no space at an end")
    return name


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]


class ApiKey(BaseModel):
    """A key of a tenant, or with `admin` a key that loads and unloads models, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[Hex, Field(min_length=2 * ID_BYTES, max_length=2 * ID_BYTES)]
    tenant: Name | None = None
    admin: bool = False
    name: Name
    salt: Annotated[Hex, Field(min_length=2 * SALT_BYTES, max_length=2 * SALT_BYTES)]
    hash: Annotated[Hex, Field(min_length=2 * HASH_BYTES, max_length=2 * HASH_BYTES)]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    @model_validator(mode="after")
    def _is_of_a_tenant_or_an_admin(self) -> Self:
        if self.admin is (self.tenant is not None):
            raise ValueError('either "tenant" is a name, or "admin" is true')
        return self

    def is_of(self, secret: str) -> bool:
        """Return whether the entry is that of the secret, in a time that does not tell how much of it fits."""
        salt, hashed = self._raw
        return hmac.compare_digest(_hash(secret, salt), hashed)

    @cached_property
    def _raw(self) -> tuple[bytes, bytes]:
        return bytes.fromhex(self.salt), bytes.fromhex(self.hash)

    def why_not(self, now: float) -> str | None:
        """Return why the key opens nothing at `now`, in seconds since 1970; None where it does."""
        if self.revoked is not None:
            return "was revoked"
        if self.expires is not None and now >= self.expires.timestamp():
            return f"expired on {self.expires:%Y-%m-%d}"
        return None


ENTRIES = TypeAdapter(tuple[ApiKey, ...])


def make_key(name: str, now: datetime, *, tenant: str | None, days: int | None) -> tuple[ApiKey, str]:
    """Return a new entry, an admin's where no `tenant` is given, and its key, which opens for so many days.

    Raises: CommandError when `tenant` or `name` is no name.
    """
    id, salt = secrets.token_hex(ID_BYTES), secrets.token_bytes(SALT_BYTES)
    secret = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    expires = None if days is None else now + timedelta(days=days)
    try:
        entry = ApiKey(
            id=id,
            tenant=tenant,
            admin=tenant is None,
            name=name,
            salt=salt.hex(),
            hash=_hash(secret, salt).hex(),
            created=now,
            expires=expires,
        )
    except ValidationError as failure:
        (wrong, *_) = failure.errors(include_url=False)
        raise CommandError(f"{wrong['loc'][0]} {wrong['input']!r:.100} is none: {wrong['msg']}") from None
    return entry, f"{MARK}_{id}_{secret}"


def split(key: str) -> tuple[str, str]:
    """Return the id and the secret of a key; empty strings, which are of no key, where it is none."""
    mark, _, rest = key.partition("_")
    id, _, secret = rest.partition("_")
    return (id, secret) if mark == MARK and len(key) <= MOST_CHARS else ("", "")


def keys_file(settings: Settings) -> Path:
    """Return where keys are kept, whether or not any are."""
    return settings.api_keys_file or settings.state_dir / KEYS_FILE


def read_keys(settings: Settings) -> tuple[ApiKey, ...]:
    """Return the entries of the environment and those of the file.

    Raises: SettingsError when an entry will not do, or a file that the settings name is not there.
    """
    own = _validated(f"{PREFIX}API_KEYS", settings.api_keys)
    file = keys_file(settings)
    kept = _read(file, missing_ok=settings.api_keys_file is None)
    ids = [entry.id for entry in (*own, *kept)]
    if len(set(ids)) < len(ids):
        raise SettingsError(f"{PREFIX}API_KEYS and {file} have two entries of the same id")
    return own + kept


class KnownKeys:
    """The keys as they were last read, by id; `asks` says whether calls need any, and stays true once it is.

    Raises: SettingsError, here and in `reread`, as `read_keys` does.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self.asks, self.by_id = settings, False, dict[str, ApiKey]()
        self.reread()

    def reread(self) -> None:
        """Know the keys as they are kept now; where that raises, nothing has changed."""
        self.by_id = {key.id: key for key in read_keys(self._settings)}
        self.asks = self.asks or any(not key.admin for key in self.by_id.values())


@contextmanager
def changing(file: Path) -> Iterator[list[ApiKey]]:
    """Yield the entries of a file to be changed in place, which are kept when all went well; others wait meanwhile.

    Raises: SettingsError when the file holds what is no entry; CommandError when it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            entries = list(_read(file, missing_ok=True))
            yield entries
            _write(file, entries)
        finally:
            os.close(folder)
    except OSError as failure:
        raise CommandError(f"the keys cannot be kept in {file} ({failure}); set {PREFIX}API_KEYS_FILE") from failure


def _read(file: Path, *, missing_ok: bool) -> tuple[ApiKey, ...]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as failure:
        if missing_ok and isinstance(failure, FileNotFoundError):
            return ()
        raise SettingsError(f"the API keys in {file} cannot be read: {failure}") from failure
    except ValueError as failure:
        raise SettingsError(f"{file} is no JSON list of API keys: {failure}") from failure
    return _validated(str(file), content)


def _validated(source: str, content: Any) -> tuple[ApiKey, ...]:
    try:
        return ENTRIES.validate_python(content)
    except ValidationError as failure:
        (error, *_) = failure.errors(include_url=False, include_input=False)
        place = ".".join(map(str, error["loc"])) or "all of it"
        raise SettingsError(f"{source}: {place}: {error['msg']}; entries are made by `baton keys api new`") from None


def _write(file: Path, entries: Sequence[ApiKey]) -> None:
    """Have the file hold the entries, one a line, or leave it as it was."""
    lines = ",\n".join(entry.model_dump_json(exclude_defaults=True) for entry in entries)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(f"[\n{lines}\n]\n")
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.blake2b(secret.encode(), key=salt, digest_size=HASH_BYTES, person=b"baton api key").digest()
