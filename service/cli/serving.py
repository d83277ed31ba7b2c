"""`baton serve`: the service in the foreground.

It knows the options that override settings, not what the settings do.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from service.errors import StartupError
from service.settings import load_settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [BATON_HOST, 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one [BATON_PORT, 8000].")] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="Directory of <name>/<version>/ models [BATON_MODELS_DIR, models].")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where models run [BATON_DEVICE, auto].")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(help="Processes that serve, or auto: one for each core [BATON_WORKERS, auto].")
    ] = None,
) -> None:
    """Load every model, check it, and serve it until SIGTERM or Ctrl-C.

    Each option has an environment variable, shown with its default; more settings are environment variables only and
    stand in docs/settings.md. A model that breaks its manifest, or an unknown BATON_ variable, ends start-up with the
    reason.

    \b
      baton serve
      baton serve --port 8080 --workers 2
    """
    from service.web.access_log import configure_logging
    from service.workers.run import run_service

    try:
        run_service(load_settings(host=host, port=port, models_dir=models_dir, device=device, workers=workers))
    except StartupError as error:
        if os.environ.get("BATON_LOG_FORMAT") != "json":  # read here, for what failed may be the settings
            raise
        configure_logging("critical", "json")
        logging.getLogger("baton").critical("%s", error)
        sys.exit(1)
