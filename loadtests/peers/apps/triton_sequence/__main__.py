"""Triton's own server over the sequence model beside this file, from the wheel of PyTriton; started with two ports.

The Python backend wants the stub of its Python beside it, and the libraries that the wheel brings. It knows where the
wheel keeps them; the model's repository is made in the working directory.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytriton

HERE, WHEEL = Path(__file__).parent, Path(pytriton.__file__).parent
SERVER, LIBRARIES = WHEEL / "tritonserver", WHEEL.parent / "nvidia_pytriton.libs"


def main(http: str, grpc: str) -> None:
    model, backend = Path("repository/lstm").resolve(), Path("backends/python").resolve()
    (model / "1").mkdir(parents=True)
    shutil.copy(HERE / "config.pbtxt", model)
    shutil.copy(HERE / "model.py", model / "1")
    shutil.copytree(SERVER / "backends" / "python", backend)
    python = "{}.{}".format(*sys.version_info)
    shutil.copy(SERVER / "python_backend_stubs" / python / "triton_python_backend_stub", backend)
    command = [str(SERVER / "bin" / "tritonserver"), "--model-repository", str(model.parent)]
    command += ["--backend-directory", str(backend.parent), "--http-address", "127.0.0.1", "--http-port", http]
    command += ["--grpc-address", "127.0.0.1", "--grpc-port", grpc, "--allow-metrics", "false"]
    command += ["--http-thread-count", "1"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the stub takes the packages of the first Python here
    os.execve(command[0], command, {**os.environ, "PATH": path, "LD_LIBRARY_PATH": str(LIBRARIES)})  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
