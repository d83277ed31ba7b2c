"""When to try again: transient failures, no earlier than the service asks, with jitter, within a total time.

It knows neither HTTP nor WebSocket libraries. Invariant: every call may be tried again, because an answer depends on
its request alone, and a step on its token and inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

CONNECT_S = 5.0
JITTER = wait_random_exponential(multiplier=0.1, max=5)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take with all its attempts, and how long an attempt may hear nothing. Units: seconds."""

    call_s: float
    silence_s: float


def retrying(limit_s: float) -> AsyncRetrying:
    """Return the attempts of one call: `async for attempt in retrying(s): with attempt: ...`.

    A failure that is not transient is raised at once, the last one when the next attempt would begin after `limit_s`.
    """
    return AsyncRetrying(
        retry=retry_if_exception(lambda failure: getattr(failure, "transient", False)),
        wait=_wait,
        stop=stop_before_delay(limit_s),
        reraise=True,
    )


def _wait(attempts: RetryCallState) -> float:
    assert attempts.outcome is not None
    asked: float = getattr(attempts.outcome.exception(), "retry_after", None) or 0.0
    return asked + JITTER(attempts)
