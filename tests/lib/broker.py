"""A broker process for tests: start, wait until it serves, talk HTTP to it, stop or kill it."""
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

BUILD = pathlib.Path(os.environ.get("EVENTBUS_BUILD", pathlib.Path(__file__).parent.parent.parent / "build"))
# Sanitizers make everything slower: deadlines are for a hung program, not for a slow one.
PATIENCE = 60.0


def wait_for(condition, timeout=PATIENCE, what="condition"):
    """Poll until condition() is true and return it; tests wait for things, not for time."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come true within {timeout} s")
        time.sleep(0.005)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {dict(self.headers)} {self.body[:300]!r}>"


class Broker:
    def __init__(self, options=(), db=None, env=None, listen="127.0.0.1:0", wrapper=()):
        self.options, self.db, self.listen = [str(o) for o in options], db, listen
        ours = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}
        self.env = {**ours, **(env or {})}
        self.wrapper = list(wrapper)
        self.process = None
        self.log = []  # what it wrote to standard error
        self.addresses = []

    @property
    def command(self):
        command = [*self.wrapper, str(BUILD / "broker" / "eventbusd")]
        if self.listen:
            command += ["--listen", self.listen]
        if self.db is not None:
            command += ["--db", str(self.db)]
        return command + self.options

    def start(self):
        """Start and wait until it says where it listens. Raises with its log when it ends instead."""
        self.addresses = []
        self.process = subprocess.Popen(
            self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self._serving = threading.Event()
        self._threads = [
            threading.Thread(target=self._read_stdout, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(self.process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self._serving.is_set() or self.process.poll() is not None, what="start of the broker")
        if not self._serving.is_set():
            self._threads[1].join(5)
            raise RuntimeError(f"broker ended with {self.process.returncode}: " + "".join(self.log[-20:]))
        return self

    def _read_stdout(self, stream):
        for line in stream:
            match = re.match(r"listening on (.*)", line)
            if match:
                self.addresses.append(match.group(1))
                self._serving.set()

    def _read_stderr(self, stream):
        for line in stream:
            self.log.append(line)

    def said(self, *words):
        """The first line of its log that has all of these: it is written when we look, but maybe not read yet."""
        return wait_for(lambda: next((line for line in list(self.log) if all(word in line for word in words)), None), what=f"a line with {words} in the log")

    # ---- where ----
    @property
    def port(self):
        return int(self.addresses[0].rsplit(":", 1)[1])

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self):
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def pid(self):
        return self.process.pid

    # ---- HTTP ----
    def request(self, method, path, body=None, headers=None, timeout=PATIENCE):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.request("GET", path, headers=headers)

    def publish(self, topic, payload=b"", **headers):
        """POST to the topic; headers with _ for -. Returns the answer's JSON, which must be a success."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.request("POST", f"/v1/topics/{topic}/events", payload, headers)
        assert answer.status in (200, 201), answer
        return answer.json

    def events(self, pattern="%23", starting_seq=1):
        """Every retained event that matches, over as many pages as it takes."""
        found = []
        while True:
            page = self.get(f"/v1/events?pattern={pattern}&starting_seq={starting_seq}&limit=1000").json
            found += page["events"]
            starting_seq = page["next_seq"]
            if starting_seq > page["last_seq"]:
                return found

    def stats(self):
        return self.get("/v1/stats").json

    def metric(self, name):
        """Sum of the samples of a metric whose series starts with name."""
        text = self.get("/metrics").body.decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(re.escape(name) + r"(\{| )", line))

    # ---- end ----
    def kill(self):
        """kill -9: what a crash is."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=PATIENCE):
        """SIGTERM and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout)
        for thread in self._threads:
            thread.join(5)
        return self.process.returncode

    def restart(self):
        """Stop in order and start again on the same file; the port changes unless listen names one."""
        self.stop()
        return self.start()

    def finish(self):
        """End of the test: it must be gone, and a sanitizer's report must not go unseen."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("the broker did not end on SIGTERM: " + "".join(self.log[-10:]))
        for thread in self._threads:
            thread.join(5)
        report = [line for line in self.log if "Sanitizer" in line or "runtime error:" in line]
        assert not report, "".join(self.log[-80:])
