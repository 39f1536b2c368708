"""A publisher that runs flat out, as a process of its own: python3 load.py PORT JSON-OPTIONS.

Options: count (events; 0: until standard input closes), topics (list, taken in turn), size (payload bytes),
window (publishes open at once), topic_flood (every event on a topic of its own), batch, rate (events a second at
most). Prints {"acked","errors","seconds"}.
Frames are made beforehand with a mask of zeros, so that Python is not what limits the load.
"""
import json
import pathlib
import re
import select
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve()


class Load:
    """load = Load(port, count=…); load.wait() -> acked events; or stop() first when count is 0."""

    def __init__(self, port, **options):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), str(port), json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.result = None

    def running(self):
        return self.process.poll() is None

    def stop(self):
        self.process.stdin.close()
        self.process.stdin = None
        return self

    def wait(self, timeout=120):
        out, err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, err[-2000:]
        self.result = json.loads(out)
        return self.result["acked"]

    def kill(self):
        if self.running():
            self.process.kill()
            self.process.wait()


def main(port, options):
    sys.path.insert(0, str(HERE.parent.parent))
    from lib.ws import TEXT, WebSocket, frame

    count, size, window, batch = options.get("count", 0), options.get("size", 100), options.get("window", 256), options.get("batch", 1)
    rate = options.get("rate")
    topics, flood = options.get("topics", ["load"]), options.get("topic_flood")
    ended = threading.Event()
    if count == 0:
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    payload = "x" * size
    number = 0

    def one():
        nonlocal number
        number += 1
        topic = f"{flood}.{number}" if flood else topics[number % len(topics)]
        return '{"topic":"%s","payload":"%s"}' % (topic, payload)

    def request():
        if batch > 1:
            text = '{"type":"publish_batch","id":1,"messages":[%s]}' % ",".join(one() for _ in range(batch))
        else:
            text = '{"type":"publish","id":1,"data":%s}' % one()
        return frame(TEXT, text.encode(), mask=b"\0\0\0\0")

    ws = WebSocket(port)
    ws.sock.setblocking(False)
    answer = re.compile(rb'"type":"(ok|error)"')
    sent = acked = errors = 0
    out, got = b"", b""
    start = time.monotonic()
    while True:
        if not out:
            made = []
            if rate:
                due = int((time.monotonic() - start) * rate) - sent * batch
                if due <= 0:
                    time.sleep(0.001)
            else:
                due = 1 << 30
            while len(made) * batch < due and sent - acked < window and not ended.is_set() and (count == 0 or sent * batch < count) and len(made) < 64:
                made.append(request())
                sent += 1
            out = b"".join(made)
        if not out and sent == acked and (ended.is_set() or (count and sent * batch >= count)):
            break
        readable, writable, _ = select.select([ws.sock], [ws.sock] if out else [], [], 1)
        if writable:
            try:
                out = out[ws.sock.send(out) :]
            except BlockingIOError:
                pass
        if readable:
            data = ws.sock.recv(1 << 18)
            if not data:
                raise SystemExit("closed by the broker")
            got += data
            end = 0
            for found in answer.finditer(got):
                acked += 1
                errors += found.group(1) == b"error"
                end = found.end()
            got = got[max(end, len(got) - 64) :]
    print(json.dumps({"acked": (acked - errors) * batch, "errors": errors, "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
