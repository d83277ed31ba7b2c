"""The users of the locustfile under a load that climbs past the service's capacity and comes back, in stages.

A shape decides the number of users of every run that loads it, so it has a file of its own. It knows users and time,
not the service. Invariant: `--users` is the peak, `--run-time` the whole run, and stages are equally long.
"""

from __future__ import annotations

from typing import Any

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser

from loadtests.locustfile import ForecastUser, SentimentUser, StreamUser
from loadtests.options import OPTIONS

__all__ = ["ForecastUser", "Overload", "SentimentUser", "StreamUser"]

SPAWN_RATE = 100  # users a second, the most that locust is sure of
STAGES = (0.1, 0.25, 0.5, 1.0, 0.5, 0.25, 0.1)  # shares of the peak


class Overload(LoadTestShape):
    """Users by stage."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        stage = int(self.get_run_time() / options.run_time * len(STAGES))
        if stage >= len(STAGES):
            return None
        return max(1, round(STAGES[stage] * options.num_users)), SPAWN_RATE


@events.init_command_line_parser.add_listener
def set_defaults(parser: LocustArgumentParser, **_: Any) -> None:
    changed = {option.name: option.overload for option in OPTIONS if option.overload is not None}
    parser.set_defaults(num_users=200, **changed)
