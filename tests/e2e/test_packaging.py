"""What `meson install` puts on a machine: headers that compile alone, libraries that show only the public API, pkg-config
files whose flags build a program."""
import json
import os
import pathlib
import re
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
HEADERS = ["eventbus/broker.h", "eventbus/broker_mhd.h", "eventbus/broker_consumer.h", "eventbus/broker_outbox.h", "eventbus/client.h", "eventbus/client_sqlite.h",
           "eventbus/event.h"]

CLIENT = r"""
#include <eventbus/client.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    eb_client_options options = EB_CLIENT_OPTIONS_INIT;
    eb_client *client = NULL;
    eb_receipt receipt;
    options.url = argv[1];
    if (argc != 2 || eb_client_open(&options, &client, NULL) != 0)
        return 1;
    eb_publication event = {"pkg.test", "hello", 5, NULL, NULL, NULL, EB_TTL_BROKER};
    int rc = eb_client_publish_wait(client, &event, &receipt, 10000);
    printf("%s %d\n", eb_result_text(rc), (int)receipt.seq);
    return eb_client_close(client, 10000) != 0 || rc != 0;
}
"""

ONCE = r"""
#include <eventbus/client_sqlite.h>
#include <sqlite3.h>
#include <stdio.h>
static int apply(void *user, sqlite3 *db, const eb_message *message)
{
    return 0;
}
int main(void)
{
    const char *epoch = "00000000-0000-4000-8000-00000000000a";
    eb_message message = {.seq = 1};
    sqlite3 *db;
    eb_once *once;
    if (sqlite3_open(":memory:", &db) != SQLITE_OK || eb_once_open(db, "pkg", &once) != 0)
        return 1;
    int first = eb_once_apply(once, &message, epoch, apply, NULL);
    printf("%d %d\n", first, eb_once_apply(once, &message, epoch, apply, NULL));
    eb_once_close(once);
    return sqlite3_close(db);
}
"""

BROKER = r"""
#include <eventbus/broker.h>
#include <eventbus/broker_mhd.h>
#include <stdio.h>
int main(void)
{
    char err[EB_BROKER_ERROR];
    eb_broker *broker = NULL;
    eb_broker_config *config = eb_broker_config_create();
    eb_broker_log("error", "text", NULL);
    if (eb_broker_config_set(config, "storage", "memory", err) != 0 || eb_broker_start(config, &broker, err) != 0)
        return 1;
    eb_broker_config_destroy(config);
    eb_broker_publish event = {"pkg.test", "hello", 5, NULL, NULL, NULL, 0};
    eb_broker_ack ack;
    int rc = eb_broker_publish_event(broker, &event, &ack, err);
    printf("%d %d %d\n", rc, (int)ack.seq, eb_broker_mhd_options(broker)[0].option == MHD_OPTION_URI_LOG_CALLBACK);
    eb_broker_stop(broker);
    return rc != 0;
}
"""


def output(*command, **kwargs):
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
    return run.stdout


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory):
    """The tree that `meson install --destdir` makes of the tests' own build."""
    options = {option["name"]: option["value"] for option in json.loads(output("meson", "introspect", "--buildoptions", build))}
    if options["b_sanitize"] != "none":
        pytest.skip("a library with a sanitizer in it is not for packaging")
    root = tmp_path_factory.mktemp("root")
    output("meson", "install", "-C", build, "--no-rebuild", "--destdir", root)
    return root / options["prefix"].lstrip("/")


@pytest.fixture(scope="module")
def libdir(installed):
    (found,) = installed.rglob("pkgconfig")
    return found.parent


@pytest.fixture
def flags(installed, libdir):
    """flags("--libs", "eventbus") -> what pkg-config says, as a list."""

    def ask(*arguments):
        env = {**os.environ, "PKG_CONFIG_PATH": str(libdir / "pkgconfig")}
        return shlex.split(output("pkg-config", f"--define-variable=prefix={installed}", *arguments, env=env))

    return ask


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    "compiler",
    [
        ["cc", "-x", "c", "-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wstrict-prototypes"],
        ["g++", "-x", "c++", "-std=c++11", "-pedantic", "-Wall", "-Wextra"],
    ],
    ids=["c11", "c++11"],
)
def test_each_header_compiles_alone(installed, compiler, header):
    source = f"#include <{header}>\n#include <{header}>\nint main(void) {{ return 0; }}\n"
    output(*compiler, "-Werror", "-fsyntax-only", f"-I{installed / 'include'}", "-", input=source)


def declared(installed, header):
    return set(re.findall(r"\b(eb_\w+)\(", "".join(
        part.split(";")[0] for part in (installed / "include" / header).read_text().split("EB_API")[1:])))


@pytest.mark.parametrize(
    "library, headers",
    [("libeventbus", ["eventbus/client.h"]), ("libeventbus-sqlite", ["eventbus/client_sqlite.h"]),
     ("libeventbus-broker", ["eventbus/broker.h", "eventbus/broker_mhd.h", "eventbus/broker_consumer.h", "eventbus/broker_outbox.h"])],
)
def test_a_library_shows_what_its_headers_declare_and_nothing_else(installed, libdir, library, headers):
    shown = set(output("nm", "-D", "--defined-only", "--format=just-symbols", libdir / f"{library}.so").split())
    assert shown == set().union(*(declared(installed, header) for header in headers))
    version = 0 if library == "libeventbus-sqlite" else 1  # of its interface, not of the project
    assert f"[{library}.so.{version}]" in output("readelf", "-d", libdir / f"{library}.so")


def test_what_is_installed(installed, libdir):
    """The daemon, three libraries, their headers, three pkg-config files: no test, no example."""
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if not path.is_dir()}
    lib = libdir.relative_to(installed)
    wanted = {"bin/eventbusd"} | {f"include/{header}" for header in HEADERS}
    wanted |= {f"{lib}/pkgconfig/{name}.pc" for name in ("eventbus", "eventbus-broker", "eventbus-sqlite")}
    wanted |= {f"{lib}/{path.name}" for path in libdir.glob("libeventbus*")}
    assert files - {"bin/eventbus"} == wanted
    assert output(installed / "bin" / "eventbusd", "--version").startswith("eventbusd ")


@pytest.mark.parametrize("compiler", ["cc", "g++"])
@pytest.mark.parametrize("link", ["shared", "static"])
def test_a_client_builds_with_pkg_config(broker, flags, libdir, tmp_path, compiler, link):
    source = tmp_path / ("client.c" if compiler == "cc" else "client.cpp")
    source.write_text(CLIENT)
    arguments = ["--cflags", "--libs", "eventbus"]
    chosen = flags("--static", *arguments) if link == "static" else flags(*arguments)
    if link == "static":
        chosen = ["-l:libeventbus.a" if flag == "-leventbus" else flag for flag in chosen]
    output(compiler, "-Wall", "-Werror", source, "-o", tmp_path / "client", *chosen)
    env = {**os.environ, "LD_LIBRARY_PATH": str(libdir)} if link == "shared" else os.environ
    assert ("libeventbus.so.1" in output("ldd", tmp_path / "client", env=env)) == (link == "shared")
    assert output(tmp_path / "client", broker.ws_url, env=env).endswith(" 1\n")
    assert broker.events()[0]["payload"] == "hello"


@pytest.mark.parametrize("link", ["shared", "static"])
def test_the_exactly_once_helper_builds_with_pkg_config(flags, libdir, tmp_path, link):
    """It brings SQLite with it, and libeventbus alone does not."""
    source = tmp_path / "once.c"
    source.write_text(ONCE)
    chosen = ["-l:libeventbus-sqlite.a" if link == "static" and flag == "-leventbus-sqlite" else flag for flag in flags("--cflags", "--libs", "eventbus-sqlite")]
    output("cc", "-Wall", "-Werror", source, "-o", tmp_path / "once", *chosen)
    env = {**os.environ, "LD_LIBRARY_PATH": str(libdir)}
    assert output(tmp_path / "once", env=env) == "1 0\n"
    assert "sqlite" not in output("readelf", "-d", libdir / "libeventbus.so")


@pytest.mark.parametrize("compiler", ["cc", "g++"])
def test_an_embedding_program_builds_with_pkg_config(flags, libdir, tmp_path, compiler):
    source = tmp_path / ("embed.c" if compiler == "cc" else "embed.cpp")
    source.write_text(BROKER)
    output(compiler, "-Wall", "-Werror", source, "-o", tmp_path / "embed", *flags("--cflags", "--libs", "eventbus-broker"))
    env = {**os.environ, "LD_LIBRARY_PATH": str(libdir)}
    assert output(tmp_path / "embed", env=env) == "0 1 1\n"
