"""A subscriber as a process of its own, so that a test may stop it with SIGSTOP: python3 reader.py PORT TRANSPORT
PATTERN START [EPOCH]. Writes a line for each thing it is given: "ok EPOCH", "SEQ", "gap FROM TO REASON", "live SEQ",
and at the end "closed CODE"."""
import pathlib
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve()


class Reader:
    """reader.lines grows while it runs; reader.seqs are the events."""

    def __init__(self, port, transport, pattern, start, epoch=""):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), str(port), transport, pattern, str(start), epoch], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        self.lines = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.split())

    @property
    def seqs(self):
        return [int(line[0]) for line in list(self.lines) if line[0].isdigit()]

    def of_type(self, kind):
        return [line[1:] for line in list(self.lines) if line[0] == kind]

    def signal(self, number):
        self.process.send_signal(number)

    def finish(self):
        self.process.kill()  # also when it is stopped
        self.process.wait()


def main(port, transport, pattern, start, epoch=""):
    sys.path.insert(0, str(HERE.parent.parent))
    from lib.sse import Sse
    from lib.ws import Closed, WebSocket

    port = int(port)
    say = lambda *words: print(*words, flush=True)  # noqa: E731
    if transport == "ws":
        ws = WebSocket(port, rcvbuf=8192)
        ws.sock.settimeout(None)
        ws.send({"type": "subscribe", "id": 1, "pattern": pattern, "starting_seq": int(start), **({"epoch": epoch} if epoch else {})})
        try:
            while True:
                message = ws.next()
                if message["type"] == "event":
                    say(message["seq"])
                elif message["type"] == "gap":
                    say("gap", message["from_seq"], message["to_seq"], message["reason"])
                elif message["type"] == "live":
                    say("live", message["seq"])
                else:
                    say("ok", message["epoch"])
        except Closed as closed:
            say("closed", closed.code)
    else:
        sse = Sse(port, f"pattern={pattern.replace('#', '%23')}&starting_seq={start}" + (f"&epoch={epoch}" if epoch else ""), timeout=None, rcvbuf=8192)
        say("ok", sse.open["epoch"])
        try:
            while event := sse.next():
                message = event.json
                if event.event == "message":
                    say(message["seq"])
                elif event.event == "gap":
                    say("gap", message["from_seq"], message["to_seq"], message["reason"])
                else:
                    say(event.event, message["seq"])
            say("closed", "end")
        except (EOFError, OSError):
            say("closed", "cut")


if __name__ == "__main__":
    main(*sys.argv[1:])
