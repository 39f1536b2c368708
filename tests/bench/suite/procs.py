"""Processes of a run: each in a folder of its own, watched through /proc, ended by its own id."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")


class Trouble(Exception):
    """A measure that cannot be made; its text goes into the result."""


class Missing(Trouble):
    """A program or protocol that is not there (yet)."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def tree(pid):
    """The process and all below it."""
    found, queue = [], [pid]
    while queue:
        pid = queue.pop()
        found.append(pid)
        for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                queue += [int(child) for child in children.read_text().split()]
            except OSError:
                pass
    return found


def cpu_seconds(pid):
    """User and system time of the process and all below it."""
    total = 0
    for one in tree(pid):
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICKS


def memory_kib(pid):
    """Resident memory of the process and all below it; what they share counts once (Pss)."""
    total = 0
    for one in tree(pid):
        try:
            total += int(re.search(r"^Pss:\s+(\d+) kB", pathlib.Path(f"/proc/{one}/smaps_rollup").read_text(), re.M).group(1))
        except (OSError, AttributeError):
            pass
    return total


class Process:
    """A server: started, waited for, ended. Its output goes to FOLDER/NAME.log, which is quoted when it fails."""

    def __init__(self, name, argv, folder, patience=20):
        self.name, self.argv, self.patience = name, [str(a) for a in argv], patience
        self.log = pathlib.Path(folder) / f"{name}.log"
        try:
            with open(self.log, "ab") as out:
                self.popen = subprocess.Popen(self.argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        except FileNotFoundError:
            raise Missing(f"{argv[0]} is not installed") from None

    @property
    def pid(self):
        return self.popen.pid

    def wait_port(self, port):
        """Until it accepts connections."""
        end = time.monotonic() + self.patience
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self.popen.poll() is not None or time.monotonic() > end:
                    raise Trouble(f"{self.name} does not start: {self.tail()}") from None
                time.sleep(0.01)

    def tail(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or f"ended with {self.popen.poll()}, and said nothing"

    def stop(self):
        end_process(self.popen, self.patience)


def end_process(popen, patience=20):
    """SIGTERM, then SIGKILL: to this process alone."""
    if popen.poll() is None:
        popen.send_signal(signal.SIGCONT)
        popen.terminate()
        try:
            popen.wait(patience)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
