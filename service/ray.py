"""The application on Ray Serve: `serve run service.ray:app`, with as many replicas as there is work for.

It knows Ray Serve and how the application is made, not what it serves. A replica is a process with its own engines, and
any of them takes the next step of a session, for they open each other's tokens. Invariant: replicas have the settings
of the process that deploys them. Annotations are not put off here: Ray reads those of `app`.
"""

import os
from pathlib import Path
from typing import Any, Self

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve import Application

from service.app import create_app
from service.errors import SettingsError
from service.settings import load_settings

MOST_ONGOING = 10_000  # of a replica; the service refuses by itself what is too much
GRACE_S = 30.0  # in which a replica that is to go answers what it has begun


class Scale(BaseModel):
    """The arguments of `serve run`, as `min_replicas=2`. Between both bounds replicas follow the ongoing requests."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(8, ge=1)
    target_ongoing_requests: float = Field(16, gt=0)
    cpus: float = Field(1, gt=0)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}")
        return self


def app(scale: Scale) -> Application:
    """Return the application for Ray Serve.

    Raises: SettingsError for a setting that will not do, or that makes replicas strangers to each other.
    """
    settings = load_settings()
    if not settings.token_keys:
        raise SettingsError("replicas on Ray need BATON_TOKEN_KEYS: each machine would seal tokens with its own key")
    own = {name: value for name, value in os.environ.items() if name.startswith("BATON_")}
    variables = {**own, "BATON_MODELS_DIR": str(Path(settings.models_dir).absolute()), "OPENBLAS_NUM_THREADS": "1"}
    deploy: Any = serve.deployment(
        name="baton",
        ray_actor_options={"num_cpus": scale.cpus, "runtime_env": {"env_vars": variables}},
        max_ongoing_requests=MOST_ONGOING,
        graceful_shutdown_timeout_s=GRACE_S,
        autoscaling_config={
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing_requests,
        },
    )
    bound: Application = deploy(serve.ingress(_make_replica)()).bind()
    return bound


def _make_replica() -> FastAPI:
    return create_app(load_settings(workers=1), log_request=None)
