"""Ray Train's workers as a crew: they train wherever the cluster puts them, and the run's files come home.

A worker trains in a folder of its own machine. The first one sends its files after every epoch to an actor on the
machine that asked, so hosts need no folder in common, and that machine publishes and resumes. It knows Ray, which is
imported only here and only when asked for.

Invariant: whatever the first worker had written by the end of an epoch is in the run's folder at home.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from service.errors import StartupError
from training.fit.job import Crew, Job, prepare, work
from training.fit.precision import Device, settle
from training.recipe import Precision

Files = Mapping[str, bytes]
CONNECT_S = 5.0


class RayError(StartupError):
    """Ray is not installed, there is no such cluster, or its workers failed."""


class Home:
    """The run's folder on the machine that asked; an actor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, files: Files) -> None:
        """Write the files, each as a whole."""
        _write(files, self.folder)


class SendHome(Checkpoint):
    """Send the run's files home after every epoch; as a checkpoint, Lightning calls it behind those before it."""

    def __init__(self, home: Any, folder: Path) -> None:
        self.home, self.folder = home, folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.send()

    def send(self) -> None:
        """Return when the files are at home."""
        import ray

        ray.get(self.home.keep.remote(_read(self.folder)))


@contextmanager
def ray_workers(address: str, processes: int) -> Iterator[Crew]:
    """Yield a crew of `processes` workers in the cluster at `address`; `auto` is the one that this machine is part of.

    They train on GPUs if the cluster has one for each. Raises: RayError where there is no Ray, or no cluster there.
    """
    try:
        import ray
        import ray.train
    except ImportError as missing:
        raise RayError(f"--ray needs the extra ray ({missing}): pip install 'baton-serving[ray]'") from missing
    if address.startswith("ray://"):
        raise RayError(f"--ray {address}: files come home to a machine of the cluster alone; join it by `ray start`")
    try:
        ray.init(_answering(address))
    except (OSError, ValueError) as failure:
        raise RayError(f"--ray {address}: no cluster there that this machine is part of: {failure}") from failure
    try:
        gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        device: Device = "cuda" if gpus >= processes else "cpu"
        yield Crew(processes, partial(_settle, device), partial(_train, processes, device))
    finally:
        ray.shutdown()


def _answering(address: str) -> str:
    """Return where the cluster listens. Raises: OSError at once if nothing does, where Ray itself tries for minutes."""
    services: Any = importlib.import_module("ray._private.services")
    found: str = services.canonicalize_bootstrap_address_or_die(address)
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    return found


def _settle(device: Device, asked: Precision) -> Precision:
    """Return what a worker can train in: the machine that asked may have another processor, and no GPU."""
    import ray

    if asked == "32-true":
        return asked  # without a task, whose process would take seconds to start
    tried: Precision = ray.get(ray.remote(num_gpus=int(device == "cuda"))(settle).remote(asked, device))
    return tried


def _train(processes: int, device: Device, job: Job, module: lightning.LightningModule) -> None:
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    this_machine = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    home = ray.remote(num_cpus=0, label_selector=this_machine)(Home).remote(job.folder.resolve())
    begun = _read(job.folder) if job.resume else {}
    with TemporaryDirectory() as notes:  # Ray's own, of this machine
        trainer = TorchTrainer(
            partial(_work, job, begun, home, device),
            scaling_config=ScalingConfig(num_workers=processes, use_gpu=device == "cuda"),
            run_config=RunConfig(storage_path=notes),
        )
        try:
            trainer.fit()
        except TrainingFailedError as failure:
            raise RayError(f"training by Ray failed: {failure}") from failure


def _work(job: Job, begun: Files, home: Any, device: Device) -> None:
    """Train as one worker, in a folder of this machine that holds what the run has left so far."""
    import ray.train
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    with TemporaryDirectory() as name:
        job = replace(job, folder=Path(name))
        _write(begun, job.folder)
        sender = SendHome(home, job.folder)
        first = ray.train.get_context().get_world_rank() == 0
        work(
            job,
            prepare(job),
            callbacks=[sender] if first else [],
            accelerator=device,
            devices="auto",
            strategy=RayDDPStrategy(),  # type: ignore[no-untyped-call]
            plugins=[RayLightningEnvironment()],  # type: ignore[no-untyped-call]
        )
        if first:
            sender.send()  # logs are whole only now


def _read(folder: Path) -> Files:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        part.write_bytes(content)
        part.replace(target)
