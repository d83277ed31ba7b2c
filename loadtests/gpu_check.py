"""`make gpu-check`: whether the models are right on an NVIDIA GPU, and how fast, in under eight minutes.

Four parts, each with its own time: parity of every committed model with the CPU, in float32 and float16; states kept on
the device beside states copied each run; steps and texts a second by batch beside a core of the CPU; the container
image for CUDA. It knows parts, lines and verdicts, not how a part measures. Invariants: a part whose time is over
before it is done has failed; with `--provider cpu`, a dry run for machines without a GPU, nothing is called verified.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from loadtests.gpu_parity import BOUNDS, in_float16, measure
from loadtests.gpu_rates import kept_beside_copied, steps_beside_cpu, texts_beside_cpu
from loadtests.models import COMMITTED, engine_of, newest, write_references
from service.contract.members import Arithmetic
from service.engine.engine import Engine
from service.errors import BatonError, DeviceUnavailable
from service.launch import ROOT
from service.model.onnx_session import VERSION
from training.export.graph import ExportError

OUTPUT = ROOT / "build" / "gpu-check.json"
SECONDS = {"parity": 180.0, "kept": 30.0, "steps": 45.0, "texts": 45.0, "image": 150.0}
RATES = {"kept": kept_beside_copied, "steps": steps_beside_cpu, "texts": texts_beside_cpu}
IMAGE, BASE = "baton:cuda", "nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04"
BUILD = ("docker", "build", "--build-arg", "DEVICE=cuda", "--build-arg", f"BASE={BASE}", "-t", IMAGE, ".")
ASK = ("docker", "run", "--rm", "--gpus", "all", "-e", "BATON_DEVICE=cuda", IMAGE, "sentiment", "A lovely film.")
Device = Literal["cuda", "cpu"]
Outcome = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True)
class Line:
    """What a part found of one thing, with its figures; `why` says what failed, or why it was not tried."""

    part: str
    what: str
    outcome: Outcome
    figures: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        figures = [
            f"{name} {value:,.{0 if value >= 100 else 2}{'f' if value >= 0.1 else 'g'}}"
            for name, value in self.figures.items()
        ]
        return f"{self.outcome:8} {self.part:7} {self.what:22} " + ", ".join([*figures, *filter(None, [self.why])])


Lines = Iterator[Line]


def parity(device: Device, versions: Sequence[Path], seconds: float) -> Lines:
    """Compare each version with itself on the CPU, and in float16 with itself in float32."""
    deadline = time.monotonic() + seconds
    for directory in versions:
        name = directory.parent.name
        if time.monotonic() > deadline:
            yield Line("parity", name, "fail", why=f"not reached in {seconds:g} s")
            continue
        reference = engine_of(directory, "cpu")
        arithmetic = reference.manifest.arithmetic
        yield _compared(name, arithmetic, lambda d=directory: engine_of(d, device), reference)  # type: ignore[misc]
        if arithmetic == "float32":
            with tempfile.TemporaryDirectory() as folder:
                half = partial(in_float16, directory, Path(folder), device)
                yield _compared(f"{name}, float16", "float16", half, reference)


def _compared(what: str, arithmetic: Arithmetic, load: Callable[[], Engine], reference: Engine) -> Line:
    try:
        gaps = measure(load(), reference)
    except ExportError as failure:
        return Line("parity", what, "skipped", why=str(failure))
    except BatonError as failure:
        return Line("parity", what, "fail", why=str(failure))
    beyond = [name for name, found in gaps.items() if not found <= BOUNDS[arithmetic]]
    why = f"{' and '.join(beyond)} beyond {BOUNDS[arithmetic]:g}" if beyond else ""
    return Line("parity", what, "fail" if beyond else "pass", gaps, why)


def rates(part: str, measured: Iterator[tuple[int, dict[str, float]]]) -> Lines:
    """Say for each batch what was measured."""
    try:
        for batch, figures in measured:
            yield Line(part, f"batch {batch}", "pass", figures)
    except Exception as failure:  # noqa: BLE001 - ONNX Runtime raises its own classes; the other parts go on
        yield Line(part, "", "fail", why=str(failure))


def image(device: Device, seconds: float) -> Lines:
    """Build the image for CUDA, and have it label a text on the GPU."""
    commands = " && ".join(map(shlex.join, (BUILD, ASK)))
    if device == "cpu" or shutil.which("docker") is None:
        reason = "a dry run" if device == "cpu" else "no docker here"
        yield Line("image", IMAGE, "skipped", why=f"{reason}; it is: {commands}")
        return
    deadline = time.monotonic() + seconds
    for command in (BUILD, ASK):
        left_s = max(0.0, deadline - time.monotonic())
        try:
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=left_s)
        except subprocess.TimeoutExpired:
            yield Line("image", command[1], "fail", why=f"not done in {seconds:g} s; build it beforehand: {commands}")
            return
        said = (ended.stderr if ended.returncode else ended.stdout).strip().splitlines()[-1:]
        yield Line("image", command[1], "fail" if ended.returncode else "pass", why="".join(said))
        if ended.returncode:
            return


def check(device: Device, versions: Sequence[Path], seconds: Mapping[str, float]) -> Lines:
    """Yield the lines of every part. Units: `seconds` by part."""
    with tempfile.TemporaryDirectory() as folder:
        references = write_references(Path(folder))
        yield from parity(device, versions, seconds["parity"])
        for part, measured in RATES.items():
            yield from rates(part, measured(references, device, seconds[part]))
    yield from image(device, seconds["image"])


def verdict(device: Device, lines: Sequence[Line]) -> str:
    """Return what may be said of the GPU after this."""
    if device == "cpu":
        return "unverified: no GPU"
    return "failed" if any(line.outcome == "fail" for line in lines) else "verified"


def summary(lines: Sequence[Line]) -> str:
    """Return a table of how many lines of each part passed, failed or were skipped."""
    outcomes = get_args(Outcome)
    rows = [f"{'':8}" + "".join(f"{outcome:>9}" for outcome in outcomes)]
    for part in SECONDS:
        counted = Counter(line.outcome for line in lines if line.part == part)
        rows.append(f"{part:8}" + "".join(f"{counted[outcome]:>9}" for outcome in outcomes))
    return "\n".join(rows)


def gpu() -> str:
    """Return the name and the driver of the GPUs here."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def main(
    provider: Annotated[Device, typer.Option(help="cuda, or cpu for a dry run.")] = "cuda",
    output: Annotated[Path, typer.Option(help="The file for the figures, JSON.")] = OUTPUT,
) -> None:
    """Check and measure; leave with 1 where something failed."""
    versions = [newest(model.name, COMMITTED) for model in sorted(COMMITTED.iterdir())]
    try:
        engine_of(versions[0], provider)
    except DeviceUnavailable as failure:
        sys.exit(f"gpu-check: {failure}; a dry run needs no GPU: --provider cpu")
    lines = []
    for line in check(provider, versions, SECONDS):
        print(line, flush=True)
        lines.append(line)
    found = verdict(provider, lines)
    about = {
        "verdict": found,
        "gpu": gpu() if provider == "cuda" else None,
        "onnxruntime": VERSION,
        "date": datetime.now(UTC).date().isoformat(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**about, "lines": [asdict(line) for line in lines]}, indent=1) + "\n")
    print(f"\n{summary(lines)}\n\n{found}; the figures are in {output}")
    sys.exit(any(line.outcome == "fail" for line in lines))


if __name__ == "__main__":
    typer.run(main)
