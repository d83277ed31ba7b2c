"""The manifests of deploy/kubernetes: as written, as kustomize builds them, and the schemas of those who read them.

kustomize comes with kubectl, which not every machine has. So what tests ask is asked twice: of `gather`, which follows
the kustomizations and applies their patches as kustomize would, and of `build`, where kubectl is there.
"""

from __future__ import annotations

import base64
import functools
import gzip
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import yaml
from conftest import ROOT

Manifest = dict[str, Any]

KUBECTL = shutil.which("kubectl")
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = "kustomization.yaml"
CRDS = {
    "ClusterServingRuntime": "kserve_clusterservingruntimes",
    "InferenceService": "kserve_inferenceservices",
    "PrometheusRule": "prometheus_operator_prometheusrules",
    "ServiceMonitor": "prometheus_operator_servicemonitors",
}
INVALID = (jsonschema_rs.ValidationError, kubernetes_validate.ValidationError)
GENERATED = {"configMapGenerator": "ConfigMap", "secretGenerator": "Secret"}
MERGED_BY = {"containers": "name", "initContainers": "name", "volumes": "name", "volumeMounts": "mountPath"}
"""The lists that patches add to, and by what two items are the same. Source: the API's `patchMergeKey`."""


def read(file: Path) -> list[Manifest]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(file.read_text()))


def read_env(file: Path) -> dict[str, str]:
    """Return the variables of an env file as kustomize reads it: no quotes, comments on lines of their own."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def build(folder: Path) -> list[Manifest]:
    """Return what kustomize makes of a folder, without a warning."""
    built = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return list(yaml.safe_load_all(built.stdout))


def gather(folder: Path, before: Iterable[Manifest] = ()) -> list[Manifest]:
    """Return the resources that a kustomization leads to, and what it generates, with its patches.

    A component adds to what was there `before` it, merges with it what it generates, and patches it.

    Raises: KeyError, ValueError for a patch of what is not there.
    """
    kustomization, found = read(folder / KUSTOMIZATION)[0], [*before]
    for path in kustomization.get("resources", ()):
        place = folder / path
        found += gather(place) if place.is_dir() else read(place)
    for path in kustomization.get("components", ()):
        found = gather(folder / path, found)
    for generator, kind in GENERATED.items():
        for entry in kustomization.get(generator, ()):
            data = {name: value for file in entry.get("envs", ()) for name, value in read_env(folder / file).items()}
            data |= dict(literal.split("=", 1) for literal in entry.get("literals", ()))
            if entry.get("behavior") == "merge":
                data = values(named(found, kind, entry["name"])) | data
                found.remove(named(found, kind, entry["name"]))
            encoded = data if kind == "ConfigMap" else {name: _base64(value) for name, value in data.items()}
            found.append({"apiVersion": "v1", "kind": kind, "metadata": {"name": entry["name"]}, "data": encoded})
    for entry in kustomization.get("patches", ()):
        (patch,) = read(folder / entry["path"])
        _patch(found, patch, entry.get("target"))
    return found


def values(manifest: Manifest) -> dict[str, str]:
    """Return what a ConfigMap or a Secret holds."""
    if manifest["kind"] == "ConfigMap":
        return dict(manifest["data"])
    return {name: base64.b64decode(value).decode() for name, value in manifest["data"].items()}


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """Return the only object of that kind and name."""
    (found,) = (manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name)
    return found


def validate(manifest: Manifest, version: str, schemas: Path) -> None:
    """Check a manifest as Kubernetes of that version would, and refuse fields that it would drop without a word.

    Raises: one of INVALID.
    """
    if manifest["kind"] in CRDS:
        file = schemas / f"{CRDS[manifest['kind']]}.crd.yaml.gz"
        _validator(file, manifest["apiVersion"]).validate(manifest)
        manifest = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": manifest["metadata"],
        }  # Kubernetes' own part
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


@functools.cache
def _validator(file: Path, api_version: str) -> Any:
    with gzip.open(file) as text:
        definition = yaml.load(text, yaml.CSafeLoader)["spec"]
    schemas = {version["name"]: version["schema"]["openAPIV3Schema"] for version in definition["versions"]}
    group, version = api_version.split("/")
    assert group == definition["group"]
    schema = {**schemas[version], "required": ["apiVersion", "kind", "metadata", "spec"]}
    return jsonschema_rs.validator_for(_closed(schema))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with every object closed that lists its fields; of `metadata` it lists none."""
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {name: _closed(field) for name, field in schema["properties"].items()}
        closed["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            closed[name] = _closed(schema[name])
    return closed


def _patch(manifests: list[Manifest], patch: Any, target: Manifest | None) -> None:
    """Apply a JSON patch to its target, or a strategic merge patch to the object that it names."""
    if target is None:
        there = named(manifests, patch["kind"], patch["metadata"]["name"])
        manifests[manifests.index(there)] = _merge(there, patch)
        return
    there = named(manifests, target["kind"], target["name"])
    for operation in patch:
        root, *way, end = operation["path"].split("/")
        assert (operation["op"], root, end) == ("add", "", "-"), "of JSON patches gather knows this one"
        functools.reduce(lambda place, name: place[name], way, there).append(operation["value"])


def _merge(there: Any, patch: Any, field: str = "") -> Any:
    """Return a field of a manifest with that of a strategic merge patch."""
    if isinstance(patch, dict):
        return there | patch | {name: _merge(there[name], patch[name], name) for name in there.keys() & patch.keys()}
    if isinstance(patch, list):
        key = MERGED_BY[field]
        items = [{item[key]: item for item in side} for side in (there, patch)]
        return list(_merge(*items).values())
    return patch


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
