"""A receiver of webhooks on 127.0.0.1: keeps what it is sent, and answers as the test says."""
import base64
import hashlib
import hmac
import json
import os
import socket
import subprocess
import threading

from lib.broker import wait_for

SECRET_BYTES = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(SECRET_BYTES).decode()


class Call:
    """One request: its headers by lower-case name (the last counts), each line as it came, and the body."""

    def __init__(self, head, body):
        first, *self.lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in self.lines)}
        self.body = body

    @property
    def id(self):
        return self.headers["webhook-id"]

    def signed_by(self, secret):
        """As Standard Webhooks says, with Python's own hmac."""
        text = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        return self.headers["webhook-signature"] == "v1," + base64.b64encode(hmac.new(secret, text, hashlib.sha256).digest()).decode()


def answered(status, *lines, body=b""):
    """An answer as bytes, for Receiver.answer."""
    return "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


class Receiver:
    """answer(call, connection) -> bytes, or None when it has dealt with the connection itself, which is then closed."""

    def __init__(self, answer=None, host="127.0.0.1"):
        self.answer = answer or (lambda call, connection: answered(200))
        self.calls = []
        self.connections = 0
        self.sent = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server((host, 0))
        self.open = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self):
        return self.listener.getsockname()[1]

    def url(self, path="/hook", host="127.0.0.1"):
        return f"http://{host}:{self.port}{path}"

    def wait(self, count):
        wait_for(lambda: len(self.calls) >= count, what=f"{count} calls (there are {len(self.calls)})")
        return self.calls

    def close(self):
        self.listener.close()
        with self.lock:
            for connection in self.open:
                connection.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
                self.open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    more = connection.recv(65536)
                    if not more:
                        return
                    buffer += more
                head, buffer = buffer.split(b"\r\n\r\n", 1)
                call = Call(head, b"")
                size = int(call.headers.get("content-length", 0))
                while len(buffer) < size:
                    buffer += connection.recv(65536)
                call.body, buffer = buffer[:size], buffer[size:]
                with self.lock:
                    self.calls.append(call)
                answer = self.answer(call, connection)
                if answer is None:
                    return
                connection.sendall(answer)
        except OSError:
            pass
        finally:
            with self.lock:
                self.open.discard(connection)
            connection.close()


def verify_with_node(root, calls, secret):
    """What the npm package standardwebhooks says of each call: true or its complaint. None when it is not installed."""
    package = root / "build" / "node"
    if not (package / "node_modules" / "standardwebhooks").is_dir():
        return None
    program = """
const { Webhook } = require("standardwebhooks");
const { secret, calls } = JSON.parse(require("fs").readFileSync(0));
console.log(JSON.stringify(calls.map(({ headers, body }) => {
    try { new Webhook(secret).verify(Buffer.from(body, "base64").toString(), headers, { jsonParse: false }); return true; }
    catch (error) { return String(error); }
})));"""
    text = json.dumps({"secret": secret, "calls": [{"headers": call.headers, "body": base64.b64encode(call.body).decode()} for call in calls]})
    done = subprocess.run(["node", "-e", program], input=text, capture_output=True, text=True, cwd=package, env={**os.environ, "NODE_PATH": str(package / "node_modules")}, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
