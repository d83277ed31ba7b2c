"""What deploy/kubernetes says holds together, and the versions that docs/kubernetes.md names would take it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, ServerFactory
from manifests import (
    FOLDER,
    INVALID,
    KUBECTL,
    KUSTOMIZATION,
    Manifest,
    build,
    gather,
    named,
    of_kind,
    read,
    validate,
)
from overlays import KEYS as TENANT_KEYS
from overlays import OVERLAYS, PAGE, copy_overlays, write_keys
from pods import (
    PROBES,
    breaches,
    containers,
    environment,
    grace_s,
    memory_at_most_bytes,
    needs,
    pods,
    ports,
    selected,
    service_pod,
    settings,
    size_bytes,
    start_in_place,
    time_to_drain_s,
)

from service.state.keys import new_key

VERSIONS = re.findall(r"Kubernetes (\d\.\d+) to (\d\.\d+)", PAGE)[0]


def files(suffix: str) -> list[Path]:
    return sorted(file for file in FOLDER.rglob(f"*{suffix}"))


@pytest.fixture
def overlays(tmp_path: Path) -> Path:
    return copy_overlays(tmp_path)


@pytest.fixture(
    params=[(overlay, way) for overlay in OVERLAYS for way in ((gather, build) if KUBECTL else (gather,))],
    ids=lambda param: f"{param[0]}-{param[1].__name__}",
)
def cluster(request: pytest.FixtureRequest, overlays: Path) -> list[Manifest]:
    """All that an overlay brings to a cluster."""
    overlay, way = request.param
    found: list[Manifest] = way(overlays / overlay)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_sent_is_valid(version: str, cluster: list[Manifest], schemas_dir: Path) -> None:
    for manifest in cluster:
        validate(manifest, version, schemas_dir)


def test_what_is_applied_by_hand_is_valid(schemas_dir: Path) -> None:
    by_hand = [ROOT / path for path in re.findall(r"-f (deploy/kubernetes/\S+)", PAGE)]
    assert len(by_hand) == 4
    for version, file in itertools.product(VERSIONS, by_hand):
        (manifest,) = read(file)
        validate(manifest, version, schemas_dir)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ["spec", "template", "spec"]),
        ("Service", ["metadata"]),
        ("ServiceMonitor", ["spec"]),
        ("ServiceMonitor", ["metadata"]),
    ],
)
def test_an_unknown_field_is_no_valid_manifest(kind: str, path: list[str], overlays: Path, schemas_dir: Path) -> None:
    """The API server drops such a field and says nothing."""
    manifest = of_kind(gather(overlays / "example"), kind)[0]
    place: Any = manifest
    for name in path:
        place = place[name]
    place["unheardOf"] = True
    with pytest.raises(INVALID, match="unheardOf"):
        validate(manifest, VERSIONS[1], schemas_dir)


def test_every_file_is_part_of_a_kustomization_or_applied_by_hand() -> None:
    used = {ROOT / path for path in re.findall(r"(?:-f|--values) (deploy/kubernetes/\S+)", PAGE)}
    for kustomization in FOLDER.rglob(KUSTOMIZATION):
        content, folder = read(kustomization)[0], kustomization.parent
        generators = [*content.get("configMapGenerator", ()), *content.get("secretGenerator", ())]
        patches = [patch["path"] for patch in content.get("patches", ())]
        envs = [env for generator in generators for env in generator.get("envs", ())]
        named_here = {folder / path for path in (*content.get("resources", ()), *patches, *envs)}
        assert all(path.exists() or path.name == "keys.env" for path in named_here)
        used |= {kustomization, *named_here}
    assert not {*files(".yaml"), *files(".env")} - used


def test_no_key_is_kept_in_the_project() -> None:
    assert not [file for file in files(".yaml") if "kind: Secret" in file.read_text()]
    assert not [file for file in files(".env") if file.name != "settings.env" and "overlays" not in file.parts]
    assert "deploy/kubernetes/overlays/*/*.env" in (ROOT / ".gitignore").read_text().split()


@pytest.mark.parametrize("overlay", ["bucket", "volume"])
def test_a_component_puts_models_where_the_service_reads_them(overlay: str, overlays: Path) -> None:
    cluster = gather(overlays / overlay)
    pod = service_pod(cluster)["spec"]
    (container,) = pod["containers"]  # a patch of one of another name would make a second
    models_dir = str(settings(environment(container, cluster)).models_dir)
    (models,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == models_dir)
    assert models["readOnly"]
    for fetch in pod.get("initContainers", ()):
        (mount,) = fetch["volumeMounts"]
        assert mount["name"] == models["name"]
        assert mount["mountPath"] in fetch["args"]


@pytest.mark.parametrize(
    ("file", "there", "not_there"),
    [
        ("monitoring/horizontalpodautoscaler.patch.yaml", "/spec/metrics/-", "/spec/metrix/-"),
        ("monitoring/kustomization.yaml", "kind: HorizontalPodAutoscaler", "kind: StatefulSet"),
        ("models-pvc/deployment.patch.yaml", "metadata:\n  name: baton", "metadata:\n  name: other"),
    ],
)
def test_a_patch_of_what_is_not_there_is_found(file: str, there: str, not_there: str, overlays: Path) -> None:
    """kustomize passes over a patch whose target is not there, and says nothing."""
    patch = overlays.parent / "components" / file
    assert there in patch.read_text()
    patch.write_text(patch.read_text().replace(there, not_there))
    with pytest.raises((KeyError, ValueError)):
        gather(overlays / "volume")


def test_what_containers_mount_is_there(cluster: list[Manifest]) -> None:
    for owner in of_kind(cluster, "Deployment", "StatefulSet"):
        pod = owner["spec"]["template"]
        claims = [claim["metadata"] for claim in owner["spec"].get("volumeClaimTemplates", ())]
        volumes = {volume["name"] for volume in (*pod["spec"].get("volumes", ()), *claims)}
        assert {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]} == volumes


def test_selectors_select_the_pods_that_they_are_for(cluster: list[Manifest]) -> None:
    service = service_pod(cluster)
    for manifest in of_kind(cluster, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        named_so = manifest["metadata"]["labels"]
        assert [pod["metadata"]["labels"] for pod in selected(cluster, manifest["spec"]["selector"])] == [named_so]
    for constraint in service["spec"]["topologySpreadConstraints"]:
        assert selected(cluster, constraint["labelSelector"]) == [service]
    target = named(cluster, "HorizontalPodAutoscaler", "baton")["spec"]["scaleTargetRef"]
    assert named(cluster, target["kind"], target["name"])["apiVersion"] == target["apiVersion"]


def test_services_and_their_monitor_lead_to_ports_of_the_pods(cluster: list[Manifest]) -> None:
    for service in of_kind(cluster, "Service"):
        for pod in selected(cluster, {"matchLabels": service["spec"]["selector"]}):
            assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports(pod))
    monitor = named(cluster, "ServiceMonitor", "baton")["spec"]
    watched = named(cluster, "Service", "baton")
    assert monitor["selector"]["matchLabels"] == watched["metadata"]["labels"]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [
        port["name"] for port in watched["spec"]["ports"]
    ]


def test_no_pod_is_without_a_policy_for_both_ways(cluster: list[Manifest]) -> None:
    policies = [policy["spec"] for policy in of_kind(cluster, "NetworkPolicy")]
    both_ways = [spec["podSelector"] for spec in policies if {*spec["policyTypes"]} == {"Ingress", "Egress"}]
    assert all(any(pod in selected(cluster, selector) for selector in both_ways) for pod in pods(cluster))


def test_policies_open_the_ports_that_pods_have(cluster: list[Manifest]) -> None:
    for policy in (policy["spec"] for policy in of_kind(cluster, "NetworkPolicy")):
        for rule in policy.get("ingress", ()):
            assert rule["from"]
            opened = {port["port"] for port in rule["ports"]}
            assert all(opened == set(ports(pod).values()) for pod in selected(cluster, policy["podSelector"]))
        for rule in policy.get("egress", ()):
            opened = {port["port"] for port in rule["ports"]}
            inside = [peer for peer in rule.get("to", ()) if "namespaceSelector" not in peer]
            reached = [pod for peer in inside for pod in selected(cluster, peer["podSelector"])]
            assert all(opened == set(ports(pod).values()) for pod in reached)


def test_the_store_in_the_settings_is_the_redis_that_the_policies_open(cluster: list[Manifest]) -> None:
    store = settings(environment(service_pod(cluster)["spec"]["containers"][0], cluster)).store
    host, port = re.fullmatch(r"redis://(\S+):(\d+)/0", store).groups()  # type: ignore[union-attr]
    service = named(cluster, "Service", host)
    assert [entry["port"] for entry in service["spec"]["ports"]] == [int(port)]
    to_redis = named(cluster, "NetworkPolicy", "baton-to-redis")["spec"]["egress"][0]
    assert to_redis["to"] == [{"podSelector": {"matchLabels": service["spec"]["selector"]}}]


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl, so nothing is built here; what is written is checked")
def test_new_keys_are_a_roll_out(overlays: Path) -> None:
    """Kubernetes replaces pods when their template changes, and not when a Secret does that they read."""
    before = service_pod(build(overlays / "example"))
    write_keys(overlays / "example", new_key(), new_key())
    assert service_pod(build(overlays / "example")) != before


def test_pods_are_restricted(cluster: list[Manifest]) -> None:
    assert [breaches(pod) for pod in pods(cluster)] == [[], []]
    (by_hand,) = pods(read(FOLDER / "components" / "models-pvc" / "models-writer.yaml"))
    assert breaches(by_hand) == []
    assert not any(pod["spec"]["automountServiceAccountToken"] for pod in (*pods(cluster), by_hand))


def test_names_of_services_reach_no_pod_as_variables(cluster: list[Manifest]) -> None:
    """`BATON_PORT=tcp://...`, of a Service called baton, would end start-up."""
    assert not any(pod["spec"]["enableServiceLinks"] for pod in pods(cluster))


def test_no_pod_starts_without_token_keys(cluster: list[Manifest]) -> None:
    """It would make a key of its own, and no other pod could open its tokens."""
    assert needs(service_pod(cluster)["spec"]["containers"][0], "BATON_TOKEN_KEYS")


def test_the_page_has_the_probes_as_they_are(overlays: Path) -> None:
    container = service_pod(gather(overlays / "example"))["spec"]["containers"][0]
    for name in PROBES:
        path, period_s = container[name]["httpGet"]["path"], container[name]["periodSeconds"]
        patience_s = period_s * container[name].get("failureThreshold", 3)
        every = "every second" if period_s == 1 else f"every {period_s} s"
        assert f"| {name.removesuffix('Probe')} | `{path}` {every} | {patience_s} s |" in PAGE


def test_a_pod_has_time_to_drain(cluster: list[Manifest]) -> None:
    pod = service_pod(cluster)
    assert grace_s(pod) >= time_to_drain_s(settings(environment(pod["spec"]["containers"][0], cluster)))


def test_a_pod_has_whole_cores_and_room_for_a_trial_of_each_worker(cluster: list[Manifest]) -> None:
    """`BATON_WORKERS=auto` counts the limit of CPU; without one it would count the cores of the node."""
    container = service_pod(cluster)["spec"]["containers"][0]
    resources = container["resources"]
    assert resources["limits"]["cpu"] == resources["requests"]["cpu"] == str(int(resources["limits"]["cpu"]))
    most_bytes = memory_at_most_bytes(container, settings(environment(container, cluster)))
    assert most_bytes <= size_bytes(resources["limits"]["memory"])


def test_the_service_runs_on_the_base_s_settings(
    overlays: Path, tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """As in its container, on other paths: it answers the probes, and refuses to hold what no other pod would find."""
    cluster = gather(overlays / "example")
    (of_base,) = of_kind(gather(overlays.parent / "base"), "ConfigMap")
    named(cluster, "ConfigMap", "baton-settings")["data"] = of_base["data"]
    container = service_pod(cluster)["spec"]["containers"][0]
    server = start_in_place(start_server, container, environment(container, cluster), tiny_models, tmp_path)
    assert server.client.get("/v1/models").status_code == 401
    held = {"model": "stepper", "hold": "server", "items": [{"inputs": [[1.0, 2.0]]}]}
    answer = server.post("/v1/step", held, headers=TENANT_KEYS.header("shop"))
    assert "BATON_STORE" in answer.json()["results"][0]["error"]["message"]
    assert not (tmp_path / "state").exists()
