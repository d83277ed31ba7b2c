"""`make loadtest` and `make loadtest-overload`: start the service, put load on it with locust, stop it.

It knows how to start both, not what the users do. Reports go to loadtests/results/. Invariant: the exit code is
locust's, and no service outlives the run.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.options import OPTIONS
from service.errors import StartupError
from service.launch import launch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "loadtests" / "results"
STOP_LIMIT_S = 30
LAST_ANSWERS_S = 15  # users under way at the end are waited for: longer than the service lets a request wait
SMALL_QUEUE = {"BATON_QUEUE_ROWS": "16", "BATON_MAX_ITEMS": "16"}  # so that one machine can overload the service


@contextmanager
def serving(log: Path, defaults: dict[str, str]) -> Iterator[str]:
    """Start the service on a free port and yield its address; `defaults` are settings that the environment may change.

    Raises: StartupError with its log when it does not listen.
    """
    with tempfile.TemporaryDirectory() as state_dir:
        asked = {name: value for name, value in os.environ.items() if name.startswith("BATON_")}
        log.unlink(missing_ok=True)
        process, url = launch(log, {"BATON_STATE_DIR": state_dir, **defaults, **asked, "BATON_PORT": "0"})
        try:
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def load(host: str, report: Path, locustfile: str, options: list[str]) -> int:
    """Run locust without its web page; return its exit code."""
    command = [
        *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / locustfile), "--host", host),
        *("--headless", "--only-summary", "--stop-timeout", str(LAST_ANSWERS_S)),
        *("--html", f"{report}.html", "--csv", str(report)),
        *options,
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def main() -> None:
    users = "\n".join(f"  {option.flag:20} {option.what} ({option.default:g})" for option in OPTIONS)
    parser = argparse.ArgumentParser(
        description="Put load on the service. Options that are not listed are locust's.",
        epilog=f"users and thresholds (defaults):\n{users}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--overload", action="store_true", help="climb past capacity and come back")
    parser.add_argument("--host", help="a running service; without it, one is started for the run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the reports")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    arguments, options = parser.parse_known_args()
    if arguments.host and not arguments.host.startswith(("http://", "https://")):
        parser.error(f"--host {arguments.host} is no address, such as http://localhost:8000")
    name = "overload" if arguments.overload else "loadtest"
    arguments.results.mkdir(parents=True, exist_ok=True)
    report, locustfile = arguments.results / name, "overload.py" if arguments.overload else "locustfile.py"
    if arguments.host:
        sys.exit(load(arguments.host, report, locustfile, options))
    try:
        with serving(report.with_suffix(".log"), SMALL_QUEUE if arguments.overload else {}) as host:
            sys.exit(load(host, report, locustfile, options))
    except StartupError as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
