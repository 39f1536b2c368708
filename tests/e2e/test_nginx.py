"""The nginx configuration of docs/operations.md, started for real: WebSocket, streams and bodies through TLS."""
import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess

import pytest
import websockets

from lib import page
from lib.broker import PATIENCE, wait_for

PAGE = "docs/operations.md"
TOKEN = "token-of-the-test"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"

pytestmark = pytest.mark.skipif(not shutil.which(NGINX), reason="nginx is not installed")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def put(text, old, new):
    """Replace what must stand there exactly once: else the page has changed and the test sees nothing of it."""
    assert text.count(old) == 1, (old, text.count(old))
    return text.replace(old, new)


class Nginx:
    """The page's configuration with this machine's ports and paths in it, and nothing else changed."""

    def __init__(self, folder, broker_port, change=lambda text: text):
        self.folder, self.port = folder, free_port()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
             "/CN=bus.example", "-addext", "subjectAltName=DNS:bus.example,DNS:localhost", "-keyout", "bus.key", "-out", "bus.crt"],
            cwd=folder, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        text = change(page.marked(PAGE, "nginx", "nginx"))
        text = put(text, "worker_processes auto;", "worker_processes 1;")
        text = put(text, "worker_rlimit_nofile 65536;", "daemon off;" + (" user root;" if os.geteuid() == 0 else ""))
        text = put(text, "worker_connections 16384;", "worker_connections 256;")
        text = put(text, "/run/nginx.pid", f"{folder}/nginx.pid")
        text = put(text, "/var/log/nginx/error.log", f"{folder}/error.log")
        text = put(text, "/var/log/nginx/access.log", f"{folder}/access.log")
        text = put(text, "listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl")
        text = put(text, "/etc/ssl/bus.example.crt", f"{folder}/bus.crt")
        text = put(text, "/etc/ssl/bus.example.key", f"{folder}/bus.key")
        text = put(text, "server 127.0.0.1:3000;", f"server 127.0.0.1:{broker_port};")
        folders = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text = put(text, "http {\n", "http {\n" + folders)
        (folder / "nginx.conf").write_text(text)
        self.process = subprocess.Popen([NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
        wait_for(self._serves, what="start of nginx")
        self.tls = ssl.create_default_context(cafile=str(folder / "bus.crt"))
        self.tls.check_hostname = False  # it is reached as 127.0.0.1

    def _serves(self):
        assert self.process.poll() is None, self.process.stderr.read()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def open(self):
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.tls)

    def request(self, method, path, body=None, headers=(), token=TOKEN):
        connection = self.open()
        try:
            headers = {"Host": "bus.example", **dict(headers)}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def websocket(self, **kwargs):
        kwargs.setdefault("subprotocols", ["eventbus.json.v1"])
        return websockets.connect(f"wss://127.0.0.1:{self.port}/ws", ssl=self.tls, **kwargs)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture
def start(start_broker, tmp_path):
    """start(change, *options): a broker, and nginx with the page's configuration before it."""
    started = []

    def begin(*options, change=lambda text: text):
        broker = start_broker(*options)
        started.append(Nginx(tmp_path, broker.port, change))
        return broker, started[-1]

    yield begin
    for nginx in started:
        nginx.stop()


@pytest.fixture
def proxied(start, tmp_path):
    (tmp_path / "tokens").write_text(TOKEN + "\n")
    return start("--token-file", tmp_path / "tokens")


async def talk(ws, *requests):
    answers = []
    for request in requests:
        await ws.send(json.dumps(request))
        answers.append(json.loads(await asyncio.wait_for(ws.recv(), PATIENCE)))
    return answers


def test_websocket_through_tls(proxied):
    """Handshake, subprotocol, answers and deliveries."""

    async def run():
        async with proxied[1].websocket(extra_headers={"Authorization": f"Bearer {TOKEN}"}) as ws:
            assert ws.subprotocol == "eventbus.json.v1"
            [answer] = await talk(ws, {"type": "subscribe", "id": 1, "pattern": "t.#"})
            assert answer["type"] == "ok"
            await ws.send(json.dumps({"type": "publish", "id": 2, "data": {"topic": "t.x", "payload": "a" * 300_000}}))
            got = [json.loads(await asyncio.wait_for(ws.recv(), PATIENCE)) for _ in range(2)]
            assert {message["type"] for message in got} == {"ok", "event"}

    asyncio.run(run())


def test_a_page_of_the_proxys_own_name_may_open_one_and_a_strangers_may_not(proxied):
    """The browser's way: its Origin, and the token as a subprotocol. What it asked for as Host reaches the broker."""
    import base64

    bearer = "bearer." + base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
    port = proxied[1].port

    async def run(origin):
        async with proxied[1].websocket(origin=origin, subprotocols=["eventbus.json.v1", bearer]) as ws:
            [answer] = await talk(ws, {"type": "ping", "id": 1})
            assert answer["type"] == "pong"

    asyncio.run(run(f"https://127.0.0.1:{port}"))
    with pytest.raises(websockets.InvalidStatusCode) as refused:
        asyncio.run(run("https://evil.example"))
    assert refused.value.status_code == 403


def test_a_stream_is_not_buffered(proxied):
    """Each event arrives while the stream stays open: a buffering proxy would hold it back."""
    broker, nginx = proxied
    connection = nginx.open()
    connection.request("GET", "/v1/stream?pattern=%23", headers={"Host": "bus.example", "Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream")
    while not answer.readline().startswith(b"event: open"):
        pass
    for i in range(3):
        broker.publish("t", b"%d" % i, Authorization=f"Bearer {TOKEN}")
        while not (line := answer.readline()).startswith(b'data: {"seq"'):
            pass
        assert json.loads(line[6:])["payload"] == str(i)
    connection.close()


def test_http_2_is_spoken(proxied):
    if "HTTP2" not in subprocess.run(["curl", "--version"], capture_output=True, text=True, timeout=30).stdout:
        pytest.skip("this curl has no HTTP/2")
    nginx = proxied[1]
    done = subprocess.run(
        ["curl", "-sS", "--http2", "--cacert", str(nginx.folder / "bus.crt"), "--resolve", f"bus.example:{nginx.port}:127.0.0.1",
         "-H", f"Authorization: Bearer {TOKEN}", "-w", " %{http_version} %{http_code}", "-d", "x", f"https://bus.example:{nginx.port}/v1/topics/t/events"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.endswith(" 2 201"), done.stdout


def test_the_largest_payload_and_the_question_who_it_is(proxied):
    nginx = proxied[1]
    assert nginx.request("POST", "/v1/topics/t/events", b"x" * (1 << 20))[0] == 201
    assert nginx.request("GET", "/v1/stats", token=None)[0] == 401
    assert nginx.request("GET", "/healthz", token=None)[0] == 200


def test_without_tokens_as_the_page_says(start):
    """Host localhost in place of the client's, and the page's origin among those allowed."""
    [line] = re.findall(r"`(proxy_set_header Host localhost;)`", page.read(PAGE))
    assert "`allowed_origins = https://bus.example`" in page.read(PAGE)
    _, nginx = start("--allowed-origins", "https://bus.example", change=lambda text: put(text, "proxy_set_header Host $http_host;", line))

    async def run():
        async with nginx.websocket(origin="https://bus.example") as ws:
            [answer] = await talk(ws, {"type": "ping", "id": 1})
            assert answer["type"] == "pong"

    asyncio.run(run())
    assert nginx.request("GET", "/v1/stats", token=None)[0] == 200


def test_without_tokens_the_clients_host_is_refused(start):
    """Why the page says so: else any name that leads to the proxy would reach a broker without tokens."""
    _, nginx = start()
    assert nginx.request("GET", "/v1/stats", token=None)[0] == 403
