"""docs/client.md: its example compiles and runs as it stands, and it names every option and result of the header.

Also what a packager installs: shared and static library, pkg-config, headers, each enough by itself."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
DOC = (ROOT / "docs" / "client.md").read_text()
HEADER = (ROOT / "client" / "include" / "eventbus" / "client.h").read_text()
EXPECTED = [f"{i + 1} order.created {{\"order\":{i}}}" for i in range(10)]


@pytest.fixture
def source(tmp_path):
    return write(tmp_path, 0, "orders.c")


def write(folder, number, name):
    path = folder / name
    path.write_text(re.findall(r"```c\n(.*?)```", DOC, re.S)[number])
    return path


def compiled(build, source):
    """Built as a program is that has nothing but the header and the shared library; the environment to run it in."""
    flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-std=c11"]
    libraries = subprocess.run(["ldd", build / "client" / "libeventbus.so"], capture_output=True, text=True).stdout
    flags += [f"-fsanitize={name}" for name, lib in (("address", "libasan"), ("thread", "libtsan")) if lib in libraries]
    include = [f"-I{ROOT}/client/include", f"-I{ROOT}/common/include"]
    subprocess.run(["cc", *flags, *include, source, f"-L{build}/client", "-leventbus", "-o", source.with_suffix("")], check=True)
    return source.with_suffix(""), {**os.environ, "LD_LIBRARY_PATH": f"{build}/client"}


def test_the_example_compiles_and_runs(broker, build, source):
    program, env = compiled(build, source)
    for _ in range(2):  # the second run's publishes are duplicates: nothing is stored twice
        run = subprocess.run([program, broker.ws_url], env=env, capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.splitlines() == EXPECTED


def test_the_example_of_a_consumer_compiles_and_runs(broker, build, tmp_path):
    """An ack, a nack with its second delivery, a term: as its callback says."""
    program, env = compiled(build, write(tmp_path, 1, "billing.c"))
    run = subprocess.run([program, broker.ws_url], env=env, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert sorted(run.stdout.splitlines()) == ["order.paid {}, delivery 1", "order.slow {}, delivery 2"]


def test_what_is_installed_is_enough(broker, build, source, tmp_path):
    """meson install; then a program is built with nothing but pkg-config, shared and static."""
    if not shutil.which("pkg-config") or not shutil.which("meson"):
        pytest.skip("needs pkg-config and meson")
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", tmp_path / "root"], check=True, capture_output=True)
    (pc,) = (tmp_path / "root").rglob("eventbus.pc")
    env = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": str(tmp_path / "root")}

    def pkg_config(*args):
        return subprocess.run(["pkg-config", *args, "eventbus"], env=env, check=True, capture_output=True, text=True).stdout.split()

    libs = pc.parent.parent
    assert (libs / "libeventbus.so").is_symlink() and (libs / "libeventbus.so.1").exists() and (libs / "libeventbus.a").exists()
    if b"san.so" in subprocess.run(["ldd", libs / "libeventbus.so.1"], capture_output=True).stdout:
        pytest.skip("a sanitizer's build is not for packagers")
    cflags = pkg_config("--cflags")
    subprocess.run(["cc", source, *cflags, *pkg_config("--libs"), "-o", tmp_path / "shared"], check=True)
    static = [flag for flag in pkg_config("--libs", "--static") if flag != "-leventbus"]
    subprocess.run(["cc", source, *cflags, libs / "libeventbus.a", *static, "-o", tmp_path / "static"], check=True)
    for name, extra in (("shared", {"LD_LIBRARY_PATH": str(libs)}), ("static", {})):
        run = subprocess.run([tmp_path / name, broker.ws_url], env={**os.environ, **extra}, capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stdout.splitlines()) == (0, EXPECTED), run.stderr


def test_only_the_header_is_exported(build):
    """Not one name of common or of the room's inside leaves the shared library."""
    out = subprocess.run(["nm", "-D", "--defined-only", build / "client" / "libeventbus.so"], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[2] for line in out.splitlines() if line.split()[1] in "TDBRVW"}
    exported -= {name for name in exported if name.startswith("__")}
    declared = set(re.findall(r"^EB_API [^;]*?\b(eb_\w+)\(", HEADER, re.M))
    assert exported == declared


def test_the_page_names_every_option_and_result():
    options = set(re.findall(r"^    [a-z_0-9 ]*?\*?(\w+);", "".join(re.findall(r"typedef struct eb_\w+_options \{(.*?)\} eb_", HEADER, re.S)), re.M))
    options |= set(re.findall(r"\(\*(\w+)\)\(void \*user", HEADER))
    assert {"url", "max_retries", "max_queued_bytes", "live"} <= options
    results = set(re.findall(r"EB_RESULT_(\w+) =", HEADER)) - {"OK"}
    missing = [name for name in options - {"size"} | results if not re.search(rf"\b{name}\b", DOC)]
    assert not missing
