"""What the processes that score are forked with: to import this module imports it all."""

import gc

gc.disable()  # nothing is garbage yet, and to look for it takes a sixth of the time

import pyarrow.compute  # type: ignore[import-untyped]  # noqa: E402
import pyarrow.parquet  # type: ignore[import-untyped]  # noqa: E402, F401

import service.cli.command  # noqa: E402
import service.cli.scoring.pool  # noqa: E402
import service.endpoints.classify.endpoint  # noqa: E402
import service.endpoints.forecast.endpoint  # noqa: E402
import service.endpoints.sentiment  # noqa: E402
import service.endpoints.tag  # noqa: E402
import service.engine.loader  # noqa: E402, F401

gc.freeze()  # so that the processes go on sharing its memory
gc.enable()
