"""Every setting of the service, read from `BATON_*` environment variables, and from nowhere else.

It knows what may be set and within which bounds, not what the values are used for. Invariant: a `Settings` that exists
holds usable values, and no `BATON_*` variable was ignored on the way.
"""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSource

from service.errors import SettingsError

PREFIX = "BATON_"
KEY_VARIABLE = "BATON_CLIENT_API_KEY"  # the key that commands send; far from BATON_API_KEYS, which the service asks for
READ_ELSEWHERE = {"BATON_DATA_DIR", KEY_VARIABLE}  # in the first training finds its data sets
LIMITS = (
    "batch_cells",
    "queue_rows",
    "max_wait_ms",
    "timeout_ms",
    "max_head_bytes",
    "max_header_fields",
    "max_body_bytes",
    "max_items",
    "max_steps",
    "max_text_chars",
    "max_series_steps",
    "max_connections",
    "max_streams",
    "tenant_streams",
    "max_frame_bytes",
    "stream_idle_s",
    "max_state_bytes",
    "tenant_held_bytes",
    "max_session_steps",
    "state_ttl_s",
    "clock_skew_s",
)
AUTO: Literal["auto"] = "auto"
MOST_WORKERS = 64
EMBEDDED = "embedded"
MEMORY = "memory"
LogFormat = Literal["text", "json"]
ORIGIN = re.compile(r"https?://[^/\s@?#]+|\*")
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
ENTRY_BYTES = 400  # what a held state takes besides its own bytes, at most; measured by a test
MAX_IN_REDIS = 512 * 2**20  # bytes of one value
LEAST_EMBEDDED = 2**20  # bytes of the embedded store's file
EMBEDDED_SHARE = 8  # a transaction may write this part of the file: room that is freed can be used two later


class Settings(BaseSettings):
    """What an operator may choose. Units are in the names: `_s` seconds, `_ms` milliseconds, `_bytes` bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on; :: is all of them, IPv4 too.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models_dir: Path = Field(Path("models"), description="Directory of models, <name>/<version>/ each.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models run; auto takes CUDA where it works and falls back to the CPU."
    )
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["auto"] = Field(
        AUTO,
        description="Processes that serve, each with all models, queues and limits of its own; auto is one for each "
        "core that the process may use, or on CUDA for each GPU.",
    )
    worker_bytes: int | None = Field(
        None,
        ge=256 * 2**20,
        description="Most memory of a worker (RLIMIT_DATA): a run that asks for more fails, and other models go on; "
        "without it, what the system gives.",
    )
    load: Literal["eager", "lazy"] = Field(
        "eager", description="When a worker loads a model: at its start, or lazy, when the model is first asked for."
    )
    trial_s: int = Field(
        120, ge=1, description="Time that a new version, or a draft, may take on trial in a process of its own."
    )
    trial_bytes: int = Field(4 * 2**30, ge=256 * 2**20, description="Most memory that this process may take.")
    intra_op_threads: int = Field(
        1, ge=1, le=256, description="Threads that one run may use, divided among workers: one each at least."
    )
    run_threads: int = Field(
        2, ge=1, le=64, description="Runs of one model at a time, divided among workers: one each at least."
    )
    batch_cells: int = Field(
        4096, ge=1, description="Most padded cells in a run: rows times the longest row; a longer row runs alone."
    )
    queue_rows: int = Field(
        2048, ge=1, description="Most rows of one model that wait or run, in equal shares to tenants; past it, 429."
    )
    max_wait_ms: int = Field(
        1000, ge=1, description="Longest that a row may have to wait for its run, by the measured pace; past it, 429."
    )
    timeout_ms: int = Field(
        10_000,
        ge=1,
        description="Time a head, then a body may take to arrive (past it, 408), and a request wait for its run (504).",
    )
    max_head_bytes: int = Field(
        65_536,
        ge=1024,
        le=2**20,
        description="Largest head of a request: its target and its fields; past it, 414 or 431.",
    )
    max_header_fields: int = Field(100, ge=10, le=1000, description="Most fields in a request's head; past it, 431.")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="Largest request body.")
    max_items: int = Field(1024, ge=1, le=10_000, description="Most items in one request; at most queue_rows.")
    max_steps: int = Field(
        4096,
        ge=1,
        description="Most time steps in one item of /v1/step, drawn for a choice of /v1/generate, or in a row over "
        "/v2, where the model sets no limit.",
    )
    max_text_chars: int = Field(100_000, ge=1, description="Longest text in characters.")
    max_series_steps: int = Field(
        1_000_000,
        ge=1,
        description="Longest series of /v1/forecast; of one that the model cannot read whole, its end is.",
    )
    max_connections: int = Field(
        0,
        ge=0,
        description="Most connections of one client address to a worker; past it, 429. 0 is any number, as behind a "
        "proxy, whose address all clients share.",
    )
    max_streams: int = Field(1024, ge=1, description="Most streams open at a time; past it, 429.")
    max_frame_bytes: int = Field(
        2**20,
        ge=1024,
        description="Largest frame from a client on a stream; the first may hold the largest token besides.",
    )
    stream_idle_s: int = Field(
        300, ge=1, description="A stream is closed when its client sends or reads nothing for so long."
    )
    max_state_bytes: int = Field(
        1_048_576, ge=1, description="Largest state that a token may carry; the server holds larger ones."
    )
    max_session_steps: int = Field(
        2**53 - 1, ge=1, le=2**53 - 1, description="Most steps of a session; JSON carries larger numbers inexactly."
    )
    state_ttl_s: int = Field(
        86_400,
        ge=1,
        le=315_360_000,
        description="How long a state token can be used after it was issued; ten years at most.",
    )
    clock_skew_s: int = Field(
        60,
        ge=0,
        le=86_400,
        description="How far the clocks of replicas may be apart: a state token from further ahead must wait (503).",
    )
    store: str = Field(
        EMBEDDED,
        description="Where states are that the server holds: embedded, in a file of state_dir that all workers share; "
        "memory, of one worker alone; or the URL of a Redis, redis://host:6379/0.",
        repr=False,  # it may hold a password
    )
    store_bytes: int = Field(
        2**30,
        ge=1,
        description="Largest file of the embedded store, 1 MiB at least, or most memory for held states; past it the "
        "least recently used go.",
    )
    state_dir: Path = Field(
        Path.home() / ".local" / "state" / "baton",
        description="Where the embedded store is, and the token key when token_keys is empty.",
    )
    token_keys: tuple[SecretStr, ...] = Field(
        (), description='JSON list of base64url 32-byte keys, ["new", "old"]: the first seals, all open.'
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys, as `baton keys api new` writes it, read again at a SIGHUP; without it, "
        "api-keys.json of state_dir where that is there. Where a tenant has a key, every call but those of health, "
        "metrics and documents asks for one.",
    )
    api_keys: tuple[dict[str, Any], ...] = Field((), description="Further API keys: a JSON list as that file's.")
    open_access: bool = Field(
        False, description="Serve whoever reaches an address that is not loopback, without API keys; else refused."
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description='JSON list of origins whose pages may call the service, ["https://app.example.com"]; by default '
        "its own alone.",
    )
    rate_limit: str = Field(
        "",
        description='Calls of a tenant, as "100/second; 50000/day": requests, and frames of streams; past it, 429. '
        "Counted by each worker, or in Redis where the store is a Redis.",
    )
    tenant_streams: int | None = Field(
        None, ge=1, description="Most streams that a tenant has open at a time, of a worker; past it, 429."
    )
    tenant_held_bytes: int | None = Field(
        None,
        ge=1,
        description="Most room for held states of each tenant, in a file of its own, apart in memory, or in Redis; "
        "past it its own least recently used go, in Redis the least recently saved. Without it, tenants share "
        "store_bytes.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    log_format: LogFormat = Field("text", description="How the log is written: lines of text, or a JSON object a line.")
    page: bool | Literal["auto"] = Field(
        AUTO, description="Whether / is the page to try the models on; auto: where host is an address of this machine."
    )
    tracing: bool = Field(
        False,
        description="Send traces of requests over OTLP, as the standard OTEL_* variables say; needs the extra otel.",
    )
    run_limit_s: int = Field(
        60,
        ge=1,
        description="Time that one run may take; past it the version is refused until it is loaded anew, and the "
        "worker replaced.",
    )

    @model_validator(mode="after")
    def _items_fit_queue(self) -> Self:
        if self.max_items > self.queue_rows:
            raise ValueError(f"max_items {self.max_items} is above queue_rows {self.queue_rows}: never admitted")
        return self

    @field_validator("store")
    @classmethod
    def _store_is_known(cls, store: str) -> str:
        if store not in (EMBEDDED, MEMORY) and not store.startswith(REDIS_SCHEMES):
            raise ValueError(f"must be {EMBEDDED!r}, {MEMORY!r}, or a URL that begins with {', '.join(REDIS_SCHEMES)}")
        return store

    @model_validator(mode="after")
    def _embedded_store_has_room(self) -> Self:
        if self.store == EMBEDDED and self.held_bytes < LEAST_EMBEDDED:
            name = "store_bytes" if self.tenant_held_bytes is None else "tenant_held_bytes"
            raise ValueError(f"{name} {self.held_bytes} is too little for the embedded store: at least 1048576")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_some(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, which is as https://app.example.com:8443, or * for all")
        return origins

    @field_validator("rate_limit")
    @classmethod
    def _rate_limit_can_be_read(cls, rate_limit: str) -> str:
        if rate_limit:
            from limits import parse_many  # which takes a tenth of a second to import

            try:
                rates = parse_many(rate_limit)
            except ValueError:
                rates = []
            if not rates or any(rate.amount < 1 for rate in rates):
                raise ValueError(f'{rate_limit!r} is no rate; it is as "100/second", several divided by semicolons')
        return rate_limit

    @property
    def held_bytes(self) -> int:
        """The most room for held states, of all tenants together or of each."""
        return self.store_bytes if self.tenant_held_bytes is None else self.tenant_held_bytes

    @property
    def largest_held_state(self) -> int:
        """The bytes of the largest state that the server can hold; 0 in the memory of one of several workers, which
        the others would not see."""
        if self.store == EMBEDDED:
            return self.held_bytes // EMBEDDED_SHARE - ENTRY_BYTES
        if self.store == MEMORY:
            return max(0, self.held_bytes - ENTRY_BYTES) if self.worker_count == 1 else 0
        return min(MAX_IN_REDIS, max(0, (self.tenant_held_bytes or MAX_IN_REDIS + ENTRY_BYTES) - ENTRY_BYTES))

    @property
    def on_loopback(self) -> bool:
        """Whether nobody but this machine reaches the service."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def shows_page(self) -> bool:
        """Whether `/` is the page."""
        return self.on_loopback if self.page == AUTO else self.page

    @property
    def worker_count(self) -> int:
        """The processes that serve; one, where `auto` has not been counted out."""
        return 1 if self.workers == AUTO else self.workers

    def worker_share(self, threads: int) -> int:
        """Return how many of the service's `threads` one worker has."""
        return max(1, threads // self.worker_count)

    def limits(self) -> dict[str, int]:
        """Return the numbers that bound a request, by the names of their settings; those that are not set, left out."""
        limits = {name: getattr(self, name) for name in LIMITS}
        return {name: limit for name, limit in limits.items() if limit is not None}


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; `overrides` that are not None win over it.

    Raises: SettingsError for an unknown BATON_* variable (with the nearest known one) or an unusable value.
    """
    known = [name.upper() for name in Settings.model_fields]
    for variable in sorted(set(os.environ) - READ_ELSEWHERE):
        name = variable.upper().removeprefix(PREFIX)
        if variable.upper().startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known: {PREFIX}{f', {PREFIX}'.join(known)}"
            raise SettingsError(f"{variable} is no setting; {hint}")
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as failure:
        problems = (
            f"{PREFIX}{_named(error['loc'])}".upper() + f": {error['msg']}"
            for error in failure.errors(include_url=False, include_input=False)
        )
        raise SettingsError("; ".join(problems)) from None
    except UnreadableSource as failure:
        raise SettingsError(f"{failure}: {failure.__cause__}") from None


def _named(place: tuple[int | str, ...]) -> str:
    """Return the name of the setting that is wrong, and of the entry in it; not that of a type that it may have."""
    return "_".join(map(str, place[:1] if "workers" in place[:1] else place))
