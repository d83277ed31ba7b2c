"""What is measured: steps of sessions behind an nginx, with one, two and three replicas, in turn.

It knows processes and their clocks, not what is made of the numbers. Invariant: a load in which a step failed is no
measurement, and one during which other processes kept the machine busy is made again, a few times at most.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from loadtests import payloads
from loadtests.models import write_references
from loadtests.payloads import Pool
from loadtests.peers.processes import free_ports
from loadtests.profile import clocks
from loadtests.requirements import BenchError, cores
from loadtests.serving import CoresWatch, Running, baton, family, metrics

REPLICAS, SESSIONS, THINK_MS = (1, 2, 3), (8, 32, 128, 256), 20
HELD_SESSIONS = 256  # with which held states are measured: as many as saturate a replica
ROUNDS, SECONDS = 5, 3
MAX_OTHER_CORES, TRIES, PATIENCE_S = 0.2, 2, 2.0
REDIS = ("/usr/bin/redis-server", "--port", "0", "--save", "")
SCRIPT = Path(__file__).parent.parent / "think.lua"
NGINX = "/usr/sbin/nginx"
CONFIGURATION = """
pid {folder}/nginx.pid;
{user}
worker_processes 1;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream replicas {{ {servers} keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    client_body_buffer_size 16k;
    proxy_buffers 8 16k;
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""
Raw = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """One load. Units: `*_us` is processor time a step; `other_cores` is what else the machine did meanwhile."""

    steps_per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    client_us: float
    proxy_us: float
    loop_us: float
    run_us: float
    runs: float
    answer_bytes: float
    other_cores: float


@dataclass(frozen=True)
class Ran:
    """Processor time of a proxy, of event loops and of all other threads of replicas. Units: seconds."""

    client: float
    proxy: float
    loop: float
    run: float

    @classmethod
    def read(cls, proxy: Running, replicas: Sequence[Running]) -> Ran:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        threads = [(replica.pid, clocks(replica.pid)) for replica in replicas]
        loop = sum(found[pid].running for pid, found in threads)
        every = sum(clock.running for _, found in threads for clock in found.values())
        return cls(children.ru_utime + children.ru_stime, ran_s(proxy.pid), loop, every - loop)


def ran_s(pid: int) -> float:
    """Return the processor time of a process and its children, by the scheduler's clock."""
    return sum(clock.running for member in family(pid) for clock in clocks(member).values())


@contextmanager
def nginx(replicas: Sequence[Running], folder: Path) -> Iterator[Running]:
    """Run an nginx of one process that sends each request to the next of the replicas."""
    folder.mkdir()
    (port,) = free_ports(1)
    servers = " ".join(f"server {replica.url.removeprefix('http://')} max_fails=0;" for replica in replicas)
    configuration = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # whose folder this is
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port, servers=servers, user=user))
    command = [NGINX, "-c", str(configuration), "-e", str(folder / "error.log"), "-g", "daemon off;"]
    process = subprocess.Popen(command)
    try:
        _wait_until_it_listens(port)
        yield Running(f"http://127.0.0.1:{port}", process.pid, 0.0)
    finally:
        process.terminate()
        process.wait()


def _wait_until_it_listens(port: int) -> None:
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)


def one_load(proxy: Running, replicas: Sequence[Running], pool: Pool, sessions: int, seconds: int) -> Load:
    """Return what so many sessions saw and cost. Raises: BenchError when a step failed."""
    command = ["wrk", "-t", "2", "-c", str(sessions), "-d", f"{seconds}s", "--timeout", "30s", "-s", str(SCRIPT)]
    command += [f"{proxy.url}{pool.path}", "--", str(pool.file), str(THINK_MS)]
    machine, runs = CoresWatch(proxy), _runs(replicas)
    before, started = Ran.read(proxy, replicas), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    after, passed = Ran.read(proxy, replicas), time.perf_counter() - started
    used = machine.used()
    runs = _runs(replicas) - runs
    if ended.returncode:
        raise BenchError(f"wrk failed: {ended.stderr.strip() or ended.stdout.strip()}")
    seen = json.loads(ended.stdout.splitlines()[-1])
    if seen["errors"]:
        raise BenchError(f"{seen['errors']} of {seen['requests']} steps of {sessions} sessions failed: {ended.stderr}")
    steps = seen["requests"]
    took = {name: value - asdict(before)[name] for name, value in asdict(after).items()}
    return Load(
        steps_per_s=steps / seen["duration_us"] * 1e6,
        mean_ms=seen["mean_us"] / 1e3,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        **{f"{name}_us": 1e6 * value / steps for name, value in took.items()},
        runs=runs / steps,
        answer_bytes=seen["bytes"] / steps,
        other_cores=max(0.0, used.other - (took["loop"] + took["run"]) / passed),
    )


def _runs(replicas: Sequence[Running]) -> float:
    return sum(metrics(replica.url)["baton_batch_rows_count"] for replica in replicas)


def quiet_load(proxy: Running, replicas: Sequence[Running], pool: Pool, sessions: int) -> Raw:
    """Return the load of a moment in which the machine did little else, waited for, or the quietest of a few.

    Raises: BenchError when steps failed each time.
    """
    tried, failure = [], None
    for _ in range(TRIES):
        patient_until = time.monotonic() + PATIENCE_S
        while psutil.cpu_percent(1) / 100 * cores() > MAX_OTHER_CORES and time.monotonic() < patient_until:
            pass
        try:
            tried.append(one_load(proxy, replicas, pool, sessions, SECONDS))
        except BenchError as error:
            failure = error
        if tried and tried[-1].other_cores <= MAX_OTHER_CORES:
            break
    if failure and not tried:
        raise failure
    return asdict(min(tried, key=lambda load: load.other_cores))


def measure(folder: Path) -> Raw:
    """Return the loads of each number of replicas and sessions, round by round, and what held states cost."""
    (folder / "models").mkdir()
    models = write_references(folder / "models")
    points: list[Raw] = [{"replicas": n, "sessions": m, "rounds": []} for n in REPLICAS for m in SESSIONS]
    with ExitStack() as stack:
        started = [stack.enter_context(baton(models, folder, BATON_WORKERS="1")) for _ in range(max(REPLICAS))]
        proxies = {n: stack.enter_context(nginx(started[:n], folder / f"nginx-{n}")) for n in REPLICAS}
        pool = payloads.sessions(folder, started[0].url, 1)
        for n in REPLICAS:
            quiet_load(proxies[n], started[:n], pool, max(SESSIONS))
        for number in range(ROUNDS):
            for point in points:
                n, m = point["replicas"], point["sessions"]
                point["rounds"].append(quiet_load(proxies[n], started[:n], pool, m))
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    return {
        "think_ms": THINK_MS,
        "seconds": SECONDS,
        "ready_s": [service.ready_s for service in started],
        "request_bytes": sum(map(len, pool.bodies)) / len(pool.bodies),
        "points": points,
        "held": {"memory": held(models, folder / "memory"), "redis": held_in_redis(models, folder / "redis")},
    }


def held(models: Path, folder: Path, store: str = "memory") -> Raw:
    """Return the rounds of one replica that holds the states itself, in its own memory or in `store`."""
    folder.mkdir(exist_ok=True)
    with (
        baton(models, folder, BATON_WORKERS="1", BATON_STORE=store) as service,
        nginx([service], folder / "nginx") as proxy,
    ):
        pool = payloads.sessions(folder, service.url, 1, hold="server")
        quiet_load(proxy, [service], pool, HELD_SESSIONS)
        rounds = [quiet_load(proxy, [service], pool, HELD_SESSIONS) for _ in range(ROUNDS)]
    return {"request_bytes": sum(map(len, pool.bodies)) / len(pool.bodies), "rounds": rounds}


def held_in_redis(models: Path, folder: Path) -> Raw:
    """The same in a Redis of our own; with its processor time, commands and bytes a step, and its memory a state."""
    folder.mkdir()
    address = folder / "redis.sock"
    server = subprocess.Popen([*REDIS, "--unixsocket", str(address)], stdout=subprocess.DEVNULL)
    try:
        while not address.exists():
            time.sleep(0.01)
        with redis.Redis(unix_socket_path=str(address)) as client:
            empty = client.info("memory")["used_memory"]
            client.config_resetstat()
            before = ran_s(server.pid)
            found = held(models, folder, f"unix://{address}")
            took, stats = ran_s(server.pid) - before, client.info("stats")
            memory, keys = client.info("memory")["used_memory"], client.dbsize()
            commands = client.info("commandstats")
    finally:
        server.terminate()
        server.wait()
    steps = commands["cmdstat_mget"]["calls"]  # each step loads one state
    return {
        **found,
        "steps": steps,
        "commands": (commands["cmdstat_mget"]["calls"] + commands["cmdstat_set"]["calls"]) / steps,
        "cpu_us": 1e6 * took / steps,
        "bytes_in": stats["total_net_input_bytes"] / steps,
        "bytes_out": stats["total_net_output_bytes"] / steps,
        "state_bytes": (memory - empty) / keys,
    }
