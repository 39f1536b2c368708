"""The other end of tests/client/ebc_driver: one C client, driven by commands, watched line by line."""
import json
import os
import pathlib
import queue
import subprocess
import threading
import time

from .broker import BUILD, PATIENCE

DRIVER = BUILD / "tests" / "client" / "ebc_driver"
# Their shadow memory is no measure of ours.
SANITIZED = b"san.so" in subprocess.run(["ldd", DRIVER], capture_output=True).stdout

RESULTS = {
    "ok": 0, "invalid": -1, "memory": -2, "timeout": -3, "closed": -4, "full": -5, "disconnected": -6, "in_doubt": -7,
    "unauthorized": -8, "forbidden": -9, "not_found": -10, "too_large": -11, "id_reused": -12, "limit": -13,
    "storage_full": -14, "unavailable": -15, "internal": -16, "conflict": -17, "would_deadlock": -18,
    "late": -19, "unknown": -20,
}  # fmt: skip


class Driver:
    """Commands are methods: driver.publish_wait(topic="a", payload="b") returns the answer's line."""

    def __init__(self, **env):
        self.process = subprocess.Popen(
            [str(DRIVER)], env={**os.environ, **env},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines = []  # everything that came by itself, in order
        self.answers = queue.Queue()
        self.changed = threading.Condition()
        self.errors = []
        self.threads = [threading.Thread(target=self._read, daemon=True), threading.Thread(target=self._read_errors, daemon=True)]
        for thread in self.threads:
            thread.start()

    def _read(self):
        for text in self.process.stdout:
            line = json.loads(text)
            if "op" in line:
                self.answers.put(line)
                continue
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        self.answers.put({"op": "gone", "rc": None})
        with self.changed:
            self.changed.notify_all()

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def send(self, op, **args):
        self.process.stdin.write(json.dumps({"op": op, **args}) + "\n")
        self.process.stdin.flush()

    def answer(self, timeout=PATIENCE):
        line = self.answers.get(timeout=timeout)
        assert line["op"] != "gone", "the driver died: " + "".join(self.errors[-60:])
        return line

    def __getattr__(self, op):
        def call(**args):
            self.send(op, **args)
            return self.answer(PATIENCE + args.get("timeout", 0) / 1000)

        return call

    def ok(self, op, **args):
        line = getattr(self, op)(**args)
        assert line["rc"] == 0, (line, args)
        return line

    # ---- what came by itself ----
    def of(self, ev, **match):
        with self.changed:
            return [line for line in self.lines if line.get("ev") == ev and all(line.get(k) == v for k, v in match.items())]

    def wait(self, ev, count=1, timeout=PATIENCE, **match):
        """Until there are count lines of that kind; returns them all."""
        end = time.monotonic() + timeout
        while True:
            found = self.of(ev, **match)
            if len(found) >= count:
                return found
            with self.changed:
                left = end - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self.threads[0].is_alive()):
                    raise AssertionError(f"{len(found)} of {count} {ev} {match}; last: {self.lines[-5:]}; {''.join(self.errors[-60:])}")
                self.changed.wait(min(left, 0.5))

    def states(self):
        return [line["state"] for line in self.of("state")]

    def finish(self):
        """End of input ends it; it must end well, and a sanitizer's report must not go unseen."""
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the driver did not end")
        for thread in self.threads:
            thread.join(5)
        report = "".join(self.errors)
        assert "Sanitizer" not in report and "runtime error" not in report and "eb_lock" not in report, report[-8000:]
        assert self.process.returncode == 0, (self.process.returncode, report[-8000:])
        late = [line for line in self.lines if line.get("late")]
        assert not late, f"called back after close: {late[:3]}"
