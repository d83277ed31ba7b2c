"""The client's way to a service: the proxies and certificates that the environment names, for calls and streams."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
from conftest import Server, free_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sums import Sum
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from baton_client import ApiError, AsyncClient, Client

pytestmark = pytest.mark.anyio
NOWHERE = "http://service.invalid"  # a name that only the proxies of these tests know
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No proxies and no certificates but those that a test names."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    return monkeypatch


@asynccontextmanager
async def proxying(url: str, refusal: bytes = b"") -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that leads everything to `url`, or refuses it; and the first lines of what it was asked."""
    asked: list[str] = []
    handlers: list[asyncio.Task[None] | None] = []
    host, port = url.split("://")[1].split(":")

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0].decode())
        if refusal:
            writer.write(refusal)
            writer.close()
        else:
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                up_writer.write(head.replace(NOWHERE.encode(), b"", 1))
            await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as proxy:
        yield f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}", asked
        await asyncio.gather(*filter(None, handlers))


async def assert_served(url: str) -> None:
    """Hold that calls and streams get there."""
    async with AsyncClient(url) as client:
        assert await client.models()
        async with client.stream("numbers") as stream:
            assert (await stream.step([1.0])).step == 1


@pytest.mark.parametrize(
    ("variable", "form"), [("HTTP_PROXY", "http://{}"), ("http_proxy", "{}"), ("ALL_PROXY", "http://{}/")]
)
async def test_calls_and_streams_go_through_the_proxy_that_is_named(
    server: Server, environment: pytest.MonkeyPatch, variable: str, form: str
) -> None:
    assert server.url is not None
    async with proxying(server.url) as (proxy, asked):
        environment.setenv(variable, form.format(proxy))
        await assert_served(NOWHERE)
    assert asked == [f"GET {NOWHERE}/v1/models HTTP/1.1", "CONNECT service.invalid:80 HTTP/1.1"]


@pytest.mark.parametrize("exempt", ["127.0.0.1", "localhost, 127.0.0.1:{port}", "*"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "nonsense://"])
async def test_what_no_proxy_exempts_goes_straight(
    server: Server, environment: pytest.MonkeyPatch, exempt: str, proxy: str
) -> None:
    """Whatever the proxy is, and whether it could be used at all."""
    assert server.url is not None
    environment.setenv("ALL_PROXY", proxy)
    environment.setenv("NO_PROXY", exempt.format(port=server.url.rsplit(":")[-1]))
    await assert_served(server.url)


async def test_a_proxy_for_https_is_none_for_http(server: Server, environment: pytest.MonkeyPatch) -> None:
    assert server.url is not None
    environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    await assert_served(server.url)


async def test_a_proxy_that_refuses_is_heard_at_once(server: Server, environment: pytest.MonkeyPatch) -> None:
    assert server.url is not None
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 8\r\n\r\nwho, you"
    async with proxying(server.url, refusal) as (proxy, asked):
        environment.setenv("HTTP_PROXY", proxy)
        async with AsyncClient(NOWHERE) as client:
            with pytest.raises(ApiError, match="http_407"):
                await client.models()
            with pytest.raises(ApiError, match="http_407"):
                await client.stream("numbers").__aenter__()
    assert len(asked) == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_socks_proxy_names_the_package_that_it_needs(
    environment: pytest.MonkeyPatch, kind: type[Client | AsyncClient]
) -> None:
    environment.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(ImportError, match=r"httpx\[socks\]"):
        kind(NOWHERE)


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("ftp://user:secret@proxy", "scheme ftp isn't supported"),
        ("socks4://user:secret@proxy", "Unknown scheme"),
        ("http://user@proxy", "username provided without password"),
        ("http://user:secret@proxy/path", "path is meaningless"),
    ],
)
def test_what_is_no_proxy_is_refused_without_telling_its_password(
    environment: pytest.MonkeyPatch, proxy: str, reason: str
) -> None:
    environment.setenv("HTTP_PROXY", proxy)
    with pytest.raises(ValueError, match=f"proxy for {NOWHERE} in HTTP_PROXY.*{reason}") as refused:
        Client(NOWHERE)
    assert "secret" not in str(refused.value)


# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "baton")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    signed = made.add_extension(address, critical=False).sign(key, hashes.SHA256())
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        signed.public_bytes(encoding) + key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    )
    return file


@asynccontextmanager
async def secure_service(certificate: Path) -> AsyncIterator[str]:
    """A service of the model "numbers" behind TLS."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)

    def call(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/v1/models":
            return connection.respond(HTTPStatus.OK, json.dumps({"models": [{"name": "numbers"}]}))
        return None

    async def stream(connection: ServerConnection) -> None:
        opening = await connection.recv()
        assert isinstance(opening, str)
        service = Sum(opening)
        await connection.send(service.said.popleft())
        async for frame in connection:
            assert isinstance(frame, str)
            service.heard.append(frame)
            service.serve()
            await connection.send(service.said.popleft())

    async with serve(stream, "127.0.0.1", 0, process_request=call, ssl=tls) as server:
        yield f"https://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@pytest.mark.parametrize("proxied", [False, True])
async def test_calls_and_streams_trust_the_certificates_that_are_named(
    certificate: Path, environment: pytest.MonkeyPatch, proxied: bool
) -> None:
    environment.setenv("SSL_CERT_FILE", str(certificate))
    async with secure_service(certificate) as url, proxying(url) as (proxy, asked):
        if proxied:
            environment.setenv("HTTPS_PROXY", proxy)
        await assert_served(url)
    assert asked == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1"] * 2 * proxied


async def test_a_broken_certificate_file_matters_to_https_alone(
    server: Server, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert server.url is not None
    (tmp_path / "broken.pem").write_text("nothing to trust")
    for name in ("missing.pem", "broken.pem"):
        environment.setenv("SSL_CERT_FILE", str(tmp_path / name))
        await assert_served(server.url)
        with pytest.raises(ValueError, match=f"for https://a.example: SSL_CERT_FILE=.*{name}"):
            AsyncClient([server.url, "https://a.example"])
