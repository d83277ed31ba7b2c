"""The pods of manifests: containers, ports, environments, times, and what the Pod Security profile restricted asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from conftest import Server
from manifests import Manifest, named, of_kind, values

from service.settings import Settings, load_settings
from service.web.tracing import FLUSH_S
from service.workers.worker import DRAIN_SPARE_S

UNITS = {"Mi": 2**20, "Gi": 2**30}
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "csi"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def pods(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Return the pods, each with its `metadata` and `spec`."""
    owners = of_kind(manifests, "Deployment", "StatefulSet")
    return [*(owner["spec"]["template"] for owner in owners), *of_kind(manifests, "Pod")]


def service_pod(manifests: Iterable[Manifest]) -> Manifest:
    """Return the pod of the service."""
    pod: Manifest = named(manifests, "Deployment", "baton")["spec"]["template"]
    return pod


def selected(manifests: Iterable[Manifest], selector: Manifest) -> list[Manifest]:
    """Return the pods that a selector's labels select; there must be some."""
    assert [*selector] == ["matchLabels"]
    found = [pod for pod in pods(manifests) if selector["matchLabels"].items() <= pod["metadata"]["labels"].items()]
    assert found, f"{selector} selects nothing"
    return found


def containers(pod: Manifest) -> Iterator[Manifest]:
    yield from pod["spec"].get("initContainers", ())
    yield from pod["spec"]["containers"]


def ports(pod: Manifest) -> dict[str, int]:
    """Return the ports of a pod by name."""
    found = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    return {port.get("name", ""): port["containerPort"] for port in found}


def environment(container: Manifest, manifests: list[Manifest]) -> dict[str, str]:
    """Return the variables that a container gets from ConfigMaps, Secrets and itself; the last that has one wins."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        for reference, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if reference in source:
                found |= values(named(manifests, kind, source[reference]["name"]))
    for variable in container.get("env", ()):
        if secret := variable.get("valueFrom"):
            key = secret["secretKeyRef"]
            found[variable["name"]] = values(named(manifests, "Secret", key["name"]))[key["key"]]
        else:
            found[variable["name"]] = variable["value"]
    return found


def needs(container: Manifest, variable: str) -> bool:
    """Tell whether a container does not start while the Secret lacks that variable."""
    keys = [entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if entry["name"] == variable]
    return [key.get("optional", False) for key in keys] == [False]


def settings(variables: dict[str, str]) -> Settings:
    """Return the settings that the service reads from an environment; it refuses variables that are none."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return load_settings()


def size_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def memory_at_most_bytes(container: Manifest, read: Settings) -> int:
    """Return what the service takes at most: what it requests, and on SIGHUP a trial for each worker.

    At the start there is a trial for each core, as many as there are workers with `BATON_WORKERS=auto`.
    """
    resources = container["resources"]
    return size_bytes(resources["requests"]["memory"]) + int(resources["limits"]["cpu"]) * read.trial_bytes


def time_to_drain_s(read: Settings) -> int:
    """Return how long the service drains and sends its last spans at most, as docs/deployment.md has it."""
    return 2 * math.ceil(read.timeout_ms / 1000) + DRAIN_SPARE_S + math.ceil(FLUSH_S)


def breaches(pod: Manifest) -> list[str]:
    """Return what of a pod the profile "restricted" would refuse, and any root file system that can be written.

    Source: Kubernetes' Pod Security Standards.
    """
    spec = pod["spec"]
    found = [f"has {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    found += [f"mounts {kind}" for volume in spec.get("volumes", ()) for kind in set(volume) - {"name"} - VOLUMES]
    of_pod = spec["securityContext"]
    if of_pod.get("runAsNonRoot") is not True or not of_pod.get("runAsUser"):
        found.append("may run as root")
    if of_pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("has no seccomp profile")
    for container in containers(pod):
        expected = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if container["securityContext"] != expected:
            found.append(f"{container['name']} has the security context {container['securityContext']}")
    return found


def grace_s(pod: Manifest) -> int:
    """Return how long a pod may take to end once its preStop is over."""
    waits = [container["lifecycle"]["preStop"]["sleep"]["seconds"] for container in pod["spec"]["containers"]]
    return int(pod["spec"]["terminationGracePeriodSeconds"] - max(waits))


def start_in_place(
    start: Callable[..., Server], container: Manifest, variables: dict[str, str], models: Path, folder: Path
) -> Server:
    """Start the service as its container would, but for paths and address; see that it answers the probes."""
    assert variables["BATON_WORKERS"] == "auto"
    assert variables["BATON_PORT"] == str(container["ports"][0]["containerPort"])
    here = {"BATON_HOST": "127.0.0.1", "BATON_PORT": "0", "BATON_WORKERS": container["resources"]["limits"]["cpu"]}
    server = start(models, folder / "state", **{**variables, **here, "BATON_MODELS_DIR": str(models)})
    for probe in PROBES:
        asked = container[probe]["httpGet"]
        assert any(asked["port"] in (port.get("name"), port["containerPort"]) for port in container["ports"])
        assert server.client.get(asked["path"]).status_code == 200
    return server
