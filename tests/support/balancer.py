"""An nginx of the tests' own, in front of replicas."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from conftest import free_port
from programs import find_program

CONFIGURATION = """
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
{user}
events {{ worker_connections 1024; }}
http {{
  log_format status "$status";
  access_log {folder}/access.log status;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream replicas {{ server 0.0.0.0:1 down; {servers} }}
  map $http_upgrade $connection_header {{ default upgrade; "" ""; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_header;
    }}
  }}
}}
"""


class Balancer:
    """An nginx that runs at `url`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._folder, self._port, self._configuration = folder, port, folder / "nginx.conf"

    def start(self, urls: Sequence[str]) -> None:
        """Start with the replicas at `urls`, and wait until it answers."""
        self._write(urls)
        command = [find_program("nginx"), "-c", self._configuration, "-e", self._folder / "error.log"]
        self._process = subprocess.Popen([*command, "-g", "daemon off;"])
        with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as client:
            client.get(f"{self.url}/healthz")

    def turn_to(self, urls: Sequence[str]) -> None:
        """Send what comes from now on to the replicas at `urls`; what is under way stays where it is."""
        self._write(urls)
        self._process.send_signal(signal.SIGHUP)

    def statuses(self) -> list[int]:
        """Return the status of every answer so far."""
        return [int(line) for line in (self._folder / "access.log").read_text().split()]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def _write(self, urls: Sequence[str]) -> None:
        servers = " ".join(f"server {url.removeprefix('http://')} max_fails=0;" for url in urls)
        user = "user root;" if os.geteuid() == 0 else ""
        text = CONFIGURATION.format(folder=self._folder, port=self._port, servers=servers, user=user)
        whole = self._folder / "nginx.conf.new"
        whole.write_text(text)
        whole.rename(self._configuration)  # it may be reading the one before


@contextmanager
def balanced(urls: Sequence[str], folder: Path) -> Iterator[Balancer]:
    """Yield an nginx that sends each request, and each stream, to the next of the replicas at `urls`."""
    nginx = Balancer(folder)
    nginx.start(urls)
    try:
        yield nginx
    finally:
        nginx.stop()
