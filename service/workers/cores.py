"""How much of the machine this process may use: cores, by affinity and cgroup, and GPUs.

It knows what Linux tells, not what is made of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS, DEVICES = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/dev")


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Return how many cores this process can keep busy: those it may run on, and no more than its CPU quota pays for.

    A part of a core counts as a core, for a worker that waits half of its time is better than none.
    """
    return math.ceil(allowed_cores(cgroups, own))


def allowed_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """Return the same with a part of a core as what it is: a quota of one and a half is 1.5."""
    return min([len(os.sched_getaffinity(0)), *_quotas(cgroups, own)])


def usable_gpus(devices: Path = DEVICES) -> list[str]:
    """Return the GPUs that CUDA may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return sorted(file.name.removeprefix("nvidia") for file in devices.glob("nvidia[0-9]*"))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield the CPU quota of each control group that this process is in, where it has one, in cores.

    Source: the Linux kernel's documentation of control groups, version 2 (cpu.max) and 1 (cpu.cfs_quota_us).
    """
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers
        group = mount / path.lstrip("/")
        for place in (group, *group.parents):  # in a container the path may be the host's, and only the root be there
            if place.is_relative_to(mount):
                yield from _quota(place)


def _quota(group: Path) -> Iterator[float]:
    together, quota, period = group / "cpu.max", group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"
    if together.exists():
        given, per = together.read_text().split()
    elif quota.exists():
        given, per = quota.read_text().strip(), period.read_text()
    else:
        return
    if given not in ("max", "-1"):
        yield int(given) / int(per)
