"""Baton as a runtime of KServe: the pod that KServe makes of deploy/kubernetes/kserve serves, and drains in time."""

from __future__ import annotations

from pathlib import Path

from conftest import ROOT, ServerFactory
from manifests import FOLDER, Manifest, read
from pods import breaches, grace_s, memory_at_most_bytes, needs, settings, size_bytes, start_in_place, time_to_drain_s

from service.state.keys import new_key

RUNTIME = read(FOLDER / "kserve" / "clusterservingruntime.yaml")[0]
SERVICE = read(FOLDER / "kserve" / "inferenceservice.yaml")[0]
MOUNTED_AT, OF_SERVING = "/mnt/models", "kserve-container"


def predictor() -> Manifest:
    """Return the pod that KServe makes: of the runtime's container and volumes, and of what the service says besides.

    Source: KServe's `MergePodSpec` and `MergeRuntimeContainers`.
    """
    spec = dict(SERVICE["spec"]["predictor"])
    model = spec.pop("model")
    (container,) = RUNTIME["spec"]["containers"]
    assert container["name"] == OF_SERVING
    merged = {**container, "env": [*container["env"], *model["env"]]}
    return {"spec": {**spec, "volumes": RUNTIME["spec"]["volumes"], "containers": [merged]}}


def variables() -> dict[str, str]:
    return {
        entry["name"]: entry.get("value", f'["{new_key()}"]') for entry in predictor()["spec"]["containers"][0]["env"]
    }


def test_the_runtime_is_chosen_for_the_example() -> None:
    model, runtime = SERVICE["spec"]["predictor"]["model"], RUNTIME["spec"]
    formats = [entry["name"] for entry in runtime["supportedModelFormats"] if entry["autoSelect"]]
    assert model["modelFormat"]["name"] in formats
    assert model["protocolVersion"] in runtime["protocolVersions"]


def test_the_example_has_the_name_of_a_model() -> None:
    """KServe's clients put the name of the service into the path of a call."""
    assert (ROOT / "models" / SERVICE["metadata"]["name"]).is_dir()


def test_the_pod_is_restricted_and_has_time_to_drain() -> None:
    pod = predictor()
    assert breaches(pod) == []
    assert grace_s(pod) >= time_to_drain_s(settings(variables()))
    assert pod["spec"]["enableServiceLinks"] is False


def test_the_pod_has_room_for_a_trial_of_each_worker() -> None:
    (container,) = predictor()["spec"]["containers"]
    limit_bytes = size_bytes(container["resources"]["limits"]["memory"])
    assert memory_at_most_bytes(container, settings(variables())) <= limit_bytes


def test_no_pod_starts_without_token_keys() -> None:
    assert needs(predictor()["spec"]["containers"][0], "BATON_TOKEN_KEYS")


def test_metrics_are_where_the_annotations_say() -> None:
    (container,) = RUNTIME["spec"]["containers"]
    annotations = RUNTIME["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == str(container["ports"][0]["containerPort"])
    assert annotations["prometheus.kserve.io/path"] == "/metrics"


def test_the_service_serves_what_kserve_mounts(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    assert variables()["BATON_MODELS_DIR"] == MOUNTED_AT
    container = predictor()["spec"]["containers"][0]
    server = start_in_place(start_server, container, variables(), tiny_models, tmp_path)
    call = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good"]}]}
    assert server.post("/v2/models/sentiment/infer", call).status_code == 200
