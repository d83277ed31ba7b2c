"""Triton's own load generator, `perf_analyzer`: installed from PyPI, run against a server, and read.

It is built for a glibc that Debian has since release 13. On an older one it runs with that release's libraries, which
are unpacked beside it from the mirror that apt knows; the system stays as it is. Invariant: what is returned was
measured without a single failed request, for at the first one `perf_analyzer` gives up.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loadtests.peers.environments import PeerError, call, keep, requirements
from loadtests.peers.texts import Ids
from loadtests.serving import Running

NAME, PLATFORM, GLIBC = "perf_analyzer", "manylinux_2_38_x86_64", (2, 38)
DEBIAN = "trixie"
LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3t64", "libzstd1")
WINDOWS = 3  # as many as it compares to call a measurement stable
ANY_SPREAD = "1000"  # percent: what the windows show is reported, however far they are apart
MAX_OUTPUT_CHARS = 800


@dataclass(frozen=True)
class Analysis:
    """What `perf_analyzer` saw in all of its windows; an inference is a row."""

    requests: int
    inferences_per_s: float
    p50_ms: float
    p99_ms: float


def prepare_analyzer(cache: Path) -> list[str]:
    """Return the command that runs it, installed if need be. Raises: PeerError."""
    folder = cache / NAME
    keep(folder, requirements(NAME).read_text(), partial(_install, folder))
    program, libraries = folder / NAME / "bin" / NAME, folder / "debian" / "usr" / "lib" / "x86_64-linux-gnu"
    if not libraries.is_dir():
        return [str(program)]
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(program)]


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder))
    call(*pip, "--platform", PLATFORM, "--only-binary", ":all:", "--requirement", str(requirements(NAME)))
    (folder / NAME / "bin" / NAME).chmod(0o755)
    glibc = os.confstr("CS_GNU_LIBC_VERSION") or ""  # "glibc 2.36"
    if tuple(map(int, re.findall(r"\d+", glibc))) < GLIBC:
        _unpack_libraries(folder / "apt", folder / "debian")


def _unpack_libraries(own: Path, target: Path) -> None:
    """Unpack the libraries of a newer Debian into `target`; `own` is what apt uses in place of the system's folders."""
    mirror = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian").split()
    if not mirror:
        raise PeerError(f"apt knows no mirror of Debian, from which {NAME} needs libraries; run apt-get update")
    (own / "lists" / "partial").mkdir(parents=True)
    (own / "cache" / "archives" / "partial").mkdir(parents=True)
    (own / "sources.list").write_text(f"deb {mirror[0]} {DEBIAN} main\n")
    places = {"Etc::SourceList": "sources.list", "Etc::SourceParts": "none", "State::Lists": "lists", "Cache": "cache"}
    options = [f"-oDir::{name}={own / place}" for name, place in places.items()]
    call("apt-get", *options, "-q", "update")
    call("apt-get", *options, "-q", "download", *LIBRARIES, cwd=own)
    for package in sorted(own.glob("*.deb")):
        call("dpkg-deb", "--extract", str(package), str(target))


def write_ids(file: Path, rows: Sequence[Ids]) -> None:
    """Write rows of ids as the input data that `perf_analyzer` sends in rotation."""
    file.write_text(json.dumps({"data": [{"ids": {"content": row, "shape": [len(row)]}} for row in rows]}))


def analyze(
    command: Sequence[str],
    server: Running,
    model: str,
    options: Sequence[str],
    *,
    concurrency: int,
    seconds: float,
    folder: Path,
) -> Analysis:
    """Load `server` with so many requests at a time for `seconds`. Raises: PeerError where a request failed."""
    report = folder / "perf_analyzer.csv"
    window_ms = str(round(1000 * seconds / WINDOWS))
    fixed = ("-m", model, "-u", server.url.removeprefix("http://"), "--concurrency-range", str(concurrency))
    windows = ("-p", window_ms, "-r", str(WINDOWS), "-s", ANY_SPREAD, "-f", str(report))
    printed = call(*command, *fixed, *windows, *options)
    with report.open(newline="") as lines:
        (found,) = csv.DictReader(lines)
    counted = re.search(r"Request count: (\d+)", printed)
    if counted is None:
        raise PeerError(f"{NAME} says no number of requests: {printed[-MAX_OUTPUT_CHARS:]}")
    return Analysis(
        requests=int(counted[1]),
        inferences_per_s=float(found["Inferences/Second"]),
        p50_ms=float(found["p50 latency"]) / 1e3,
        p99_ms=float(found["p99 latency"]) / 1e3,
    )
