"""docs/embedding.md: its programs are taken out, compiled with pkg-config against an installed tree, and run."""
import json
import os
import socket
import subprocess

import pytest

from lib.docs import blocks, matches


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def toolbox(build, tmp_path):
    """An environment in which the library is installed as far as cc and pkg-config can see."""
    options = {option["name"]: option["value"] for option in json.loads(
        subprocess.check_output(["meson", "introspect", "--buildoptions", build]))}
    if options["b_sanitize"] != "none":
        pytest.skip("a program linked without the sanitizer cannot use a library that has one")
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", tmp_path / "root"], check=True, stdout=subprocess.DEVNULL)
    prefix = tmp_path / "root" / options["prefix"].lstrip("/")
    (packages,) = prefix.rglob("pkgconfig")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "pkg-config"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/pkg-config --define-variable=prefix={prefix} "$@"\n')
    wrapper.chmod(0o755)
    return {**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}", "PKG_CONFIG_PATH": str(packages), "LD_LIBRARY_PATH": str(packages.parent)}


def run(commands, folder, env, lines):
    """Run in a shell; Enter is pressed once as many lines have come. Returns what was printed."""
    process = subprocess.Popen(
        ["bash", "-e", "-c", commands], cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    printed = ""
    while printed.count("\n") < lines and (line := process.stdout.readline()):
        printed += line
    rest, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, (commands, printed, err)
    return printed + rest


def test_its_programs_compile_and_print_what_it_shows(toolbox, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    ran = 0
    for block in blocks("embedding.md"):
        if block.kind == "file":
            (folder / block.name).write_text(block.text)
            continue
        commands = block.text.replace("3000", str(free_port())).replace("cc ", "cc -Wall -Wextra -Werror ")
        commands = commands.replace("./bus", "stdbuf -oL ./bus")  # its output is a pipe here
        printed = run(commands, folder, toolbox, block.shown.count("\n"))
        assert matches(block.shown, printed), (commands, printed)
        ran += 1
    assert ran == 4
