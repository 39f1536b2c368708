"""A Server-Sent Events client for tests: parses as the HTML standard says, over a raw socket."""
import json

from lib.rawhttp import RawHttp


class SseEvent:
    def __init__(self, event, id, data):
        self.event, self.id, self.data = event, id, data

    @property
    def json(self):
        return json.loads(self.data)

    def __repr__(self):
        return f"<{self.event} id={self.id} {self.data[:120]}>"


class Sse:
    """Sse(port, "pattern=%23"): the stream is open when the constructor returns."""

    def __init__(self, port, query, headers=(), timeout=30, rcvbuf=None):
        self.http = RawHttp(port, timeout, rcvbuf)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.http.send(f"GET /v1/stream?{query} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
        self.status, self.headers = self.http.head()
        self.text = b""
        self.retry = None
        self.comments = 0
        self.ended = False
        if self.status == 200:
            first = self.next()
            assert first.event == "open", first
            self.open = first.json

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.http.close()

    def close(self):
        self.http.close()

    def _line(self):
        while b"\n" not in self.text:
            part = self.http.chunk()
            if not part:
                self.ended = True
                return None
            self.text += part
        line, self.text = self.text.split(b"\n", 1)
        return line.decode()

    def next(self, comments=False):
        """The next event; None at the end of the body. With comments: True for a comment line."""
        event, id, data = "message", None, []
        while True:
            line = self._line()
            if line is None:
                return None
            if line == "":
                if data:
                    return SseEvent(event, id, "\n".join(data))
                event, id = "message", None
                continue
            if line.startswith(":"):
                self.comments += 1
                if comments:
                    return True
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                event = value
            elif field == "id":
                id = value
            elif field == "data":
                data.append(value)
            elif field == "retry":
                self.retry = int(value)

    def until(self, event):
        """All up to and with the next one of that kind."""
        found = []
        while True:
            found.append(self.next())
            if found[-1] is None or found[-1].event == event:
                return found
