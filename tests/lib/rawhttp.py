"""HTTP by hand over a raw socket: for requests that no proper client sends, and answers read byte by byte."""
import json
import socket


class RawAnswer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"


def connect(port, timeout, rcvbuf=None):
    """A TCP connection; rcvbuf (bytes) must be set before it is made to bound what the kernel takes for us."""
    sock = socket.socket()
    try:
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(timeout)
        sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


class RawHttp:
    def __init__(self, port, timeout=30, rcvbuf=None):
        self.socket = connect(port, timeout, rcvbuf)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def _fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("closed by the broker")
        self.buffer += data

    def line(self):
        while b"\n" not in self.buffer:
            self._fill()
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r")

    def exactly(self, length):
        while len(self.buffer) < length:
            self._fill()
        data, self.buffer = self.buffer[:length], self.buffer[length:]
        return data

    def head(self):
        """Status and headers (names in lower case; a repeated one keeps its last value)."""
        status = int(self.line().split()[1])
        headers = {}
        while line := self.line():
            name, value = line.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        return status, headers

    def chunk(self):
        """The next chunk of a chunked body; b"" at its end."""
        length = int(self.line(), 16)
        data = self.exactly(length)
        self.line()
        return data

    def answer(self, head_only=False):
        status, headers = self.head()
        body = b""
        if head_only or status in (204, 304) or status < 200:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while part := self.chunk():
                body += part
        elif "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        return RawAnswer(status, headers, body)

    def closed(self):
        """True once the broker has closed its side (waits for it)."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True
