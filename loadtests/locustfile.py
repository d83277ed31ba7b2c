"""Simulated users of the service: senders of texts, senders of series, and sessions that step with a state token.

`make loadtest` runs it, or `locust -f loadtests/locustfile.py --host URL` from the root; docs/loadtests.md says how to
read it. It knows the API, not the service's code. Invariants: every answer is checked, not only its status; a session
goes on from its last answered token whatever came between; a user that is refused waits as long as it was told to.
"""

from __future__ import annotations

import random
import sys
from argparse import SUPPRESS, ArgumentTypeError
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, ClassVar, TypeVar

import gevent
from locust import FastHttpUser, events, log, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, ResponseContextManager
from locust.env import Environment
from locust.runners import LocalRunner

from loadtests import checks
from loadtests.contents import Payloads, load_payloads
from loadtests.options import OPTIONS, non_negative
from loadtests.verdict import Line, Sessions, refused_as, verdict
from service.errors import StartupError

LONGEST_HORIZON = 48
MAX_STEPS = 16
MOST_GENERATED = 64  # steps of a text
SESSIONS_PER_TEXT = 5  # one session in so many reads text, the others numbers
ONE_PROCESS = "sessions are counted in one process: run without --master, --worker and --processes"

T = TypeVar("T")


class ServiceUser(FastHttpUser):
    """What all users have in common; `kind` names their options, `path` their requests and statistics."""

    abstract = True
    kind: ClassVar[str]
    path: ClassVar[str]
    payloads: ClassVar[Payloads]
    numbers = count()
    requests = count()

    def on_start(self) -> None:
        self.rng = random.Random(next(self.numbers))
        self.hold_s = 0.0

    def wait_time(self) -> float:
        """Return the pause before the next request in seconds: time to think, or what a refusal asked for."""
        think_s = self.environment.parsed_options.think_time
        pause_s = self.rng.expovariate(1 / think_s) if think_s else 0.0
        hold_s, self.hold_s = self.hold_s, 0.0
        return max(pause_s, hold_s)

    def context(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def next_ids(self, items: int) -> list[str]:
        """Return ids that no other request has, so that an answer to another request is noticed."""
        request = next(self.requests)
        return [f"{request}-{index}" for index in range(items)]

    def ask(self, body: dict[str, Any], check: Callable[[bytes], T]) -> T | None:
        """Send `body`; return what `check` makes of the answer, or None when there is no right one."""
        with self.client.post(self.path, json=body, catch_response=True) as response:
            try:
                answer = self.read(response, check)
            except (checks.WrongAnswer, *FAILURE_EXCEPTIONS) as wrong:
                response.failure(wrong)
                self.answered_wrongly(wrong)
                return None
            response.success()
            return answer

    def read(self, response: ResponseContextManager, check: Callable[[bytes], T]) -> T | None:
        if response.status_code == 200:
            return check(response.content)
        if not response.status_code:
            raise checks.WrongAnswer(f"no answer: {response.error}")
        code, self.hold_s = checks.refusal(response.status_code, response.headers, response.content)
        response.request_meta["name"] = refused_as(self.path, code)
        return None

    def answered_wrongly(self, wrong: Exception) -> None:
        """Take note of a wrong answer, beyond counting it."""


class SentimentUser(ServiceUser):
    """Sends one to eight texts at a time."""

    kind = "sentiment"
    path = "/v1/sentiment"

    @task
    def label(self) -> None:
        texts = self.payloads.texts(self.rng)
        ids, scores = self.next_ids(len(texts)), self.rng.choice(("top", "all"))
        inputs = [{"id": name, "text": text} for name, text in zip(ids, texts, strict=True)]
        self.ask({"inputs": inputs, "scores": scores}, lambda content: checks.sentiment(content, ids, scores))


class ForecastUser(ServiceUser):
    """Sends one to eight series of 16 to 512 values at a time."""

    kind = "forecast"
    path = "/v1/forecast"

    @task
    def forecast(self) -> None:
        histories = self.payloads.histories(self.rng)
        ids, horizon = self.next_ids(len(histories)), self.rng.randint(1, LONGEST_HORIZON)
        series = [{"id": name, "values": values} for name, values in zip(ids, histories, strict=True)]
        self.ask({"series": series, "horizon": horizon}, lambda content: checks.forecast(content, ids, horizon))


class TagUser(ServiceUser):
    """Sends one to eight texts at a time to a tagger."""

    kind = "tag"
    path = "/v1/tag"

    @task
    def tag(self) -> None:
        texts = self.payloads.texts(self.rng)
        ids = self.next_ids(len(texts))
        inputs = [{"id": name, "text": text} for name, text in zip(ids, texts, strict=True)]
        body = {"model": "tagger", "inputs": inputs, "scores": self.rng.choice(("top", "all"))}
        self.ask(body, lambda content: checks.tag(content, ids, texts))


class TransformUser(ServiceUser):
    """Sends one to eight series of 16 to 512 values at a time."""

    kind = "transform"
    path = "/v1/transform"

    @task
    def transform(self) -> None:
        series = self.payloads.histories(self.rng)
        ids = self.next_ids(len(series))
        items = [{"id": name, "values": values} for name, values in zip(ids, series, strict=True)]
        self.ask({"model": "denoise", "items": items}, lambda content: checks.transform(content, ids, series))


class ClassifyUser(ServiceUser):
    """Sends one to eight texts at a time to a classifier."""

    kind = "classify"
    path = "/v1/classify"

    @task
    def classify(self) -> None:
        texts = self.payloads.texts(self.rng)
        ids = self.next_ids(len(texts))
        items = [{"id": name, "text": text} for name, text in zip(ids, texts, strict=True)]
        body = {"model": "spam", "items": items, "scores": "all"}
        self.ask(body, lambda content: checks.classify(content, ids))


class GenerateUser(ServiceUser):
    """Has a text go on, and asks for it again."""

    kind = "generate"
    path = "/v1/generate"

    @task
    def generate(self) -> None:
        (name,) = ids = self.next_ids(1)
        items = [{"id": name, "prompt": self.payloads.text(self.rng)}]
        seed, steps = self.rng.randrange(2**32), self.rng.randint(1, MOST_GENERATED)
        body = {"model": "charlm", "items": items, "max_steps": steps, "seed": seed}
        first = self.ask(body, lambda content: checks.generate(content, ids, body))
        if first is not None:
            self.ask(body, lambda content: checks.same_text(first, checks.generate(content, ids, body)))


@dataclass(frozen=True)
class Taken:
    """A step that was answered: its request, the steps before it, and its answer."""

    body: dict[str, Any]
    reached: int
    answer: checks.Step

    def check_again(self, content: bytes) -> checks.Step:
        return checks.retried(self.answer, checks.step(content, self.body, self.reached))


class StreamUser(ServiceUser):
    """One session, carried from answer to request as a token; now and then it takes its last step once more."""

    kind = "stream"
    path = "/v1/step"
    sessions: ClassVar[Sessions] = Sessions()
    places = count()

    def on_start(self) -> None:
        super().on_start()
        self.reads_text = next(self.places) % SESSIONS_PER_TEXT == SESSIONS_PER_TEXT - 1
        self.series, self.position = self.rng.choice(self.payloads.series), 0
        self.last: Taken | None = None

    def answered_wrongly(self, wrong: Exception) -> None:
        if isinstance(wrong, checks.TokenRefused):
            self.sessions.lost += 1
            self.last = None

    @task(9)
    def advance(self) -> None:
        state = {"state": self.last.answer.state} if self.last else {}
        reached = self.last.answer.step if self.last else 0
        model = "sentiment-live" if self.reads_text else "forecast-live"
        item = {**self.next_input(), **state}
        body = {"model": model, "items": [item], "return": self.rng.choice(("last", "all"))}
        answer = self.ask(body, lambda content: checks.step(content, body, reached))
        if answer is not None:
            self.sessions.begun += self.last is None
            self.sessions.steps += answer.step - reached
            self.position += len(item.get("values", ()))
            self.last = Taken(body, reached, answer)

    @task(1)
    def retry(self) -> None:
        if self.last is not None and self.ask(self.last.body, self.last.check_again) is not None:
            self.sessions.retries += 1

    def next_input(self) -> dict[str, Any]:
        (name,) = self.next_ids(1)
        if self.reads_text:
            return {"id": name, "text": self.payloads.text(self.rng)}
        steps = self.rng.randint(1, MAX_STEPS)
        values = [self.series[(self.position + ahead) % len(self.series)] for ahead in range(steps)]
        return {"id": name, "values": values}


USERS: tuple[type[ServiceUser], ...] = (
    *(SentimentUser, ForecastUser, StreamUser),
    *(TagUser, TransformUser, ClassifyUser, GenerateUser),
)


def never_forked(_: str) -> int:
    """Refuse `--processes` before locust forks: those that it forked stay behind when their master refuses to run."""
    raise ArgumentTypeError(ONE_PROCESS)


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    parser.set_defaults(num_users=24, spawn_rate=12.0, run_time=60)
    group = parser.add_argument_group("Users and thresholds of this load test", conflict_handler="resolve")
    group.add_argument("--processes", type=never_forked, env_var="LOCUST_PROCESSES", help=SUPPRESS)
    for option in OPTIONS:
        group.add_argument(
            option.flag, type=non_negative, default=option.default, env_var=option.variable, help=option.what
        )


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Give the users their weights and payloads, and judge the run at its end."""
    options = environment.parsed_options
    if not isinstance(environment.runner, LocalRunner):
        sys.exit(ONE_PROCESS)
    for user in USERS:
        user.weight = getattr(options, f"{user.kind}_weight")
    active = [user for user in USERS if user in environment.user_classes and user.weight]
    if not active:
        sys.exit("no user has a weight above 0")
    try:
        ServiceUser.payloads = load_payloads()
    except StartupError as missing:
        sys.exit(str(missing))
    if options.requests:
        end_after(options.requests, environment, active)
    environment.events.quitting.add_listener(partial(judge, active=active))


def end_after(requests: float, environment: Environment, active: list[type[ServiceUser]]) -> None:
    """End the run as soon as every kind of user has made `requests`."""
    made: Counter[str] = Counter()

    def count_request(context: dict[str, Any], **_: Any) -> None:
        made[context["kind"]] += 1
        if all(made[user.kind] >= requests for user in active):
            environment.events.request.remove_listener(count_request)
            gevent.spawn(environment.runner.quit)

    environment.events.request.add_listener(count_request)


def judge(environment: Environment, active: list[type[ServiceUser]], **_: Any) -> None:
    """Hold the run against its thresholds, set the exit code, and say so below locust's own tables."""
    lines = [Line.of(user.kind, user.path, environment.stats) for user in active]
    broken = sum(exception["count"] for exception in environment.runner.exceptions.values())
    broken += log.unhandled_greenlet_exception
    breaches = verdict(lines, StreamUser.sessions, broken, environment.parsed_options)
    environment.process_exit_code = 1 if breaches else 0
    outcome = [f"FAILED {breach}" for breach in breaches] or ["passed: every threshold was kept"]
    shown = [f"payloads {ServiceUser.payloads.source}", *lines, StreamUser.sessions, *outcome]
    environment.events.quit.add_listener(lambda **_: print(*shown, sep="\n", flush=True))
