"""docs/tutorial.md: every command runs in one shell, in order, and prints what the page shows."""
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from lib.broker import PATIENCE
from lib.docs import blocks, matches

ROOT = pathlib.Path(__file__).parent.parent.parent


class Shell:
    """One bash that keeps its variables and jobs, asked block by block."""

    def __init__(self, folder, variables):
        self.process = subprocess.Popen(
            ["bash"], cwd=folder, env={**os.environ, **variables}, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, commands):
        """What they print (job messages left out)."""
        self.process.stdin.write(f"{{\n{commands}\n}} 2> errors\nprintf '\\n=== %s\\n' $?\n")
        self.process.stdin.flush()
        printed = ""
        for line in self.process.stdout:
            if line.startswith("=== "):
                assert line == "=== 0\n", (commands, printed)
                return "\n".join(part for part in printed.splitlines() if "Killed" not in part)
            printed += line
        raise AssertionError(f"the shell ended: {printed}")

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def shell(build, tmp_path):
    # $EVENTBUS/build/examples is where the tests' own build has them
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "build").symlink_to(pathlib.Path(build).resolve())
    shell = Shell(tmp_path, {"EVENTBUS": str(tmp_path / "checkout")})
    yield shell
    shell.end()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_the_tutorial(shell):
    service, sync = free_ports(2)

    def ours(text):
        return text.replace("3000", service).replace("5000", sync)

    for block in blocks("tutorial.md"):
        if block.kind == "from":
            assert block.text in (ROOT / block.name).read_text(), block.text
        elif block.kind == "run":
            printed = shell.run(ours(block.text))
            assert matches(ours(block.shown or ""), printed), (block.text, printed)
        elif block.kind == "look":  # the other service is a moment behind
            end = time.monotonic() + PATIENCE
            while not matches(ours(block.shown), printed := shell.run(ours(block.text) + "true")):
                assert time.monotonic() < end, (block.text, printed)
                time.sleep(0.05)


def test_all_commands_of_the_tutorial_are_run():
    """Only the build is left to the tests' own; nothing stands outside of a marked block."""
    text = (ROOT / "docs/tutorial.md").read_text()
    kinds = [block.kind for block in blocks("tutorial.md")]
    assert text.count("```sh\n") + text.count("```c\n") == len(kinds)
    assert kinds.count("build") == 1 and set(kinds) == {"build", "run", "look", "from"}
