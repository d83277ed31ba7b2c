"""An nginx of the tests' own, in front of replicas."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conftest import free_port
from programs import find_program

from baton_client import Client

CONFIGURATION = """
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream replicas {{ {servers} }}
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


@contextmanager
def balanced(urls: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield the URL of an nginx that sends each request, and each stream, to the next of the replicas at `urls`."""
    nginx, port = find_program("nginx"), free_port()
    folder.mkdir()
    servers = " ".join(f"server {url.removeprefix('http://')} max_fails=0;" for url in urls)
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port, servers=servers, user=user))
    process = subprocess.Popen([nginx, "-c", configuration, "-e", folder / "error.log", "-g", "daemon off;"])
    try:
        url = f"http://127.0.0.1:{port}"
        with Client(url) as client:
            client.models()  # tries until it listens
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)
