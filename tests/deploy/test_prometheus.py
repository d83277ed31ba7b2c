"""A Prometheus that scrapes a service at work: every query of the dashboard and of the rules has data."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
import yaml
from conftest import ADMIN, Server, free_port
from each_worker import each_worker
from monitoring import RULES, dashboard, drawn, rules, told
from oip import tensor
from programs import find_program
from streams import Stream
from turns import nobody_may_write
from websockets.exceptions import InvalidStatus

WORKERS = 2
FEW, MANY = 4, 16  # as many requests, and tokens, as are told when they come within 5 minutes
LIMIT_S = 120
ADMIN_HEADER = ADMIN.header()
RATE_INTERVAL = "5m"  # Grafana takes it for a range of days; a slow machine has no less time


class Prometheus:
    """A Prometheus of the test's own with the rules of deploy/, which scrapes one address each second."""

    def __init__(self, folder: Path, target: str) -> None:
        scraped = {"job_name": "baton", "static_configs": [{"targets": [target]}]}
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config = {"global": every, "rule_files": [str(RULES)], "scrape_configs": [scraped]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        self.client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=LIMIT_S)
        options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [find_program("prometheus"), *options, f"--web.listen-address={address}"], stdout=log, stderr=log
            )

    def stop(self) -> None:
        self.client.close()
        self._process.terminate()
        self._process.wait(timeout=LIMIT_S)

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer."""
        answer = self.client.get(path, params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def numbers(self, query: str) -> list[float]:
        """Return the values that a query has now, and that are numbers."""
        values = [float(sample["value"][1]) for sample in self.ask("/query", query=query)["result"]]
        return [value for value in values if not math.isnan(value)]

    def scrape(self) -> None:
        """Return when what has happened so far was scraped."""
        now, scraped = time.time(), 'timestamp(up{job="baton"}) and (up{job="baton"} == 1)'
        eventually(lambda: min(self.numbers(scraped), default=0) > now)


def eventually(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Server]:
    settings = {"BATON_WORKERS": str(WORKERS), "BATON_API_KEYS": ADMIN.setting, "BATON_MAX_STREAMS": "1"}
    running = Server(tiny.all_models(folder / "models"), folder / "state", **settings)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def prometheus(service: Server, folder: Path) -> Iterator[Prometheus]:
    """One that has seen a service before, during and after what its metrics are about."""
    running = Prometheus(folder, service.url.removeprefix("http://"))
    try:
        eventually(lambda: is_ready(running.client))
        running.scrape()
        kill_a_worker(service)
        for _ in range(2):  # of a series that appears only then, a rate sees no more than what comes after
            put_to_work(service)
            refuse(service, folder)
            running.scrape()
        yield running
    finally:
        running.stop()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/status/runtimeinfo").is_success
    except httpx.TransportError:
        return False


def put_to_work(service: Server) -> None:
    """Have the service do everything that it can do."""
    assert service.post("/v1/sentiment", {"inputs": ["a very good film", "bad nonsense", ""]}).status_code == 200
    assert service.post("/v1/forecast", {"series": [{"values": [1, 2, 3, 4]}], "horizon": 4}).status_code == 200
    assert service.post("/v1/step", {"model": "reader", "items": [{"text": "not good"}]}).status_code == 200
    for where in ({}, {"hold": "server"}):
        item: dict[str, Any] = {"values": [1, 2]}
        for _ in range(2):
            answer = service.post("/v1/step", {"model": "numbers", "items": [item], **where})
            item["state"] = answer.json()["results"][0]["state"]
    rows = {"inputs": [tensor("x", "FP32", [[[1.0, 2.0]]])]}
    assert service.post("/v2/models/stepper/infer", rows).status_code == 200
    assert service.post("/v2/repository/models/numbers/load", {}, headers=ADMIN_HEADER).status_code == 200


def refuse(service: Server, folder: Path) -> None:
    """Have the service refuse for load, for time, for a bad token, for a store that fails, and a load."""
    with pytest.raises(InvalidStatus, match="429"):
        open_streams(service, WORKERS + 1)
    long = {"model": "numbers", "items": [{"values": [0] * 4096}] * 64, "timeout_ms": 1}
    for _ in range(FEW):
        eventually(lambda: service.post("/v1/step", long).status_code == 504)
    assert service.post("/v1/step", {"model": "numbers", "items": [{"values": [1], "state": "AAAA"}] * MANY}).is_error
    held = {"model": "numbers", "items": [{"values": [1]}], "hold": "server"}
    with nobody_may_write(folder / "state"), ThreadPoolExecutor(FEW) as clients:
        answers = list(clients.map(lambda _: service.post("/v1/step", held), range(FEW)))
    assert [answer.status_code for answer in answers] == [503] * FEW
    broken = folder / "models" / "sentiment" / "2"
    broken.mkdir()
    assert service.post("/v2/repository/models/sentiment/load", {}, headers=ADMIN_HEADER).status_code == 400
    broken.rmdir()


def open_streams(service: Server, count: int) -> None:
    """Open so many at a time; a worker takes one."""
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(Stream(service, "numbers")).ask(values=[1])


def kill_a_worker(service: Server) -> None:
    start = len(service.lines)
    with each_worker(service, WORKERS) as clients:
        victim = next(iter(clients))
    os.kill(victim, signal.SIGKILL)
    service.lines_since(start, until=f"worker {victim} died")
    service.lines_since(start, until="Application startup complete")


def filled_in(prometheus: Prometheus, query: str) -> str:
    """Return a query with the variables as Grafana fills them in: one instance chosen, and every model one by one."""
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            values = prometheus.ask(f"/label/{label}/values", **{"match[]": metric})
            assert values
            chosen = [re.escape(value).replace("\\", "\\\\") for value in values]
            query = query.replace(f"${variable['name']}", f"({'|'.join(chosen)})" if chosen[1:] else chosen[0])
    query = query.replace("$__rate_interval", RATE_INTERVAL)
    assert "$" not in query
    return query


def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    queries = [(title, filled_in(prometheus, query)) for title, query in drawn()]
    eventually(lambda: bool(prometheus.numbers('ALERTS{alertstate="firing"}')))
    assert not [title for title, query in queries if not prometheus.numbers(query)]


def test_every_rule_works_and_its_query_has_data(prometheus: Prometheus) -> None:
    eventually(lambda: {"BatonWorkerDied", "BatonLoadRefused"} <= set(raised(prometheus, "firing")))
    assert not [name for name, query in told() if not prometheus.numbers(query)]
    assert not [rule["record"] for rule in rules("record") if not prometheus.numbers(rule["record"])]
    loaded = loaded_rules(prometheus)
    assert {rule["name"] for rule in loaded} == {name for name, _ in told()}
    assert {rule["health"] for rule in loaded} == {"ok"}


def test_alerts_are_raised_by_what_they_are_about_and_say_so_with_its_values(prometheus: Prometheus) -> None:
    """What has to last for minutes before it fires is pending."""
    expected = {"BatonStoreUnavailable", "BatonDeadlinesMissed", "BatonTokensRejected", "BatonServerErrors"}
    eventually(lambda: expected <= set(raised(prometheus, "pending")) | set(raised(prometheus, "firing")))
    for alert in (*raised(prometheus, "pending").values(), *raised(prometheus, "firing").values()):
        values = {value for name, value in alert["labels"].items() if name in ("instance", "reason")}
        assert all(value in alert["annotations"]["summary"] for value in values)


def loaded_rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.ask("/rules")["groups"] for rule in group["rules"]]


def raised(prometheus: Prometheus, state: str) -> dict[str, dict[str, Any]]:
    """Return an alert of each name that is in that state."""
    alerts = [alert for rule in loaded_rules(prometheus) for alert in rule.get("alerts", ())]
    return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == state}
