"""The load generator, its null sink, and the raw limits: programs that print one JSON object on one line."""
import contextlib
import json
import os
import signal
import subprocess

from .procs import Missing, Process, Trouble, cpu_seconds, end_process, free_port


def run_json(argv, seconds, stdin=None):
    """What the program printed last; Trouble with its own words when it failed."""
    if not os.access(argv[0], os.X_OK):
        raise Missing(f"{os.path.basename(str(argv[0]))} is not built")
    popen = subprocess.Popen([str(a) for a in argv], stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, start_new_session=True)
    try:
        out, err = popen.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end_process(popen)
        raise Trouble(f"{os.path.basename(str(argv[0]))} did not end within {seconds:.0f} s") from None
    if popen.returncode != 0:
        said = (err.strip() or out.strip() or "no word").splitlines()[-1][-300:]
        kind = Missing if "--target: there is no" in said else Trouble
        raise kind(f"{said} (exit {popen.returncode})")
    try:
        return json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Trouble(f"no JSON in what it printed: {out[-200:]!r}") from None


class Loader:
    """eventbus-load and its kin. `scale` is the run's: seconds of a measure, sizes."""

    def __init__(self, folder):
        self.program = folder / "tests/bench/load/eventbus-load"
        self.raw_program = folder / "tests/bench/raw/eventbus-raw"
        self.match_program = folder / "tests/bench/bench_match"

    def argv(self, target, load, port):
        mode, *options = load
        return [self.program, mode, "--target", target, "--host", "127.0.0.1", "--port", port, *options]

    def run(self, target, load, port, patience):
        result = run_json(self.argv(target, load, port), patience)
        return result

    @contextlib.contextmanager
    def sink(self, target, load, folder):
        """The port of a null sink that speaks the target's protocol, and knows the size of its payloads."""
        port = free_port()
        payload = load[load.index("--payload"):][:2] if "--payload" in load else ()
        process = Process("sink", [self.program, "sink", "--target", target, "--port", port, *payload], folder)
        try:
            process.wait_port(port)
            yield port
        finally:
            process.stop()

    @contextlib.contextmanager
    def background(self, target, load, port, folder):
        """A loader of its own beside the one that is measured."""
        process = Process("beside", self.argv(target, load, port), folder)
        try:
            yield process
        finally:
            process.stop()

    @contextlib.contextmanager
    def idle(self, target, load, port):
        """Connections that are open and silent, until the block ends."""
        popen = subprocess.Popen([str(a) for a in self.argv(target, load, port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            line = popen.stdout.readline()
            if not line:
                raise Trouble((popen.stderr.read().strip() or "idle connections did not open")[-300:])
            yield json.loads(line)
            popen.stdin.close()
            popen.wait(60)
        finally:
            end_process(popen)
            for stream in (popen.stdout, popen.stderr):
                stream.close()

    def raw(self, limit, folder, seconds, options):
        argv = [self.raw_program, limit, "--folder", folder, "--seconds", seconds, *options]
        return run_json(argv, 60 + 10 * seconds)

    @contextlib.contextmanager
    def raw_server(self, limit, folder="."):
        """A raw limit that serves: its port and a process to watch."""
        if not os.access(self.raw_program, os.X_OK):
            raise Missing("eventbus-raw is not built")
        popen = subprocess.Popen([self.raw_program, limit, "--folder", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            yield json.loads(popen.stdout.readline())["port"], lambda: cpu_seconds(popen.pid)
        finally:
            popen.stdin.close()
            end_process(popen)
            popen.stdout.close()


def stopped(process):
    """SIGSTOP: what a laptop that sleeps does to its broker."""
    process.popen.send_signal(signal.SIGSTOP)
