"""eventbusd as an operator meets it: settings, addresses, signals, systemd, limits."""
import http.client
import json
import os
import pathlib
import resource
import signal
import socket
import stat
import subprocess
import threading

import pytest

from lib.broker import BUILD, Broker, wait_for

DAEMON = str(BUILD / "broker" / "eventbusd")


def run(*options, env=None, timeout=30, **kwargs):
    """Run to its end: for what must refuse or end by itself."""
    return subprocess.run([DAEMON, *map(str, options)], capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}, **kwargs)


def unix_request(path, method, target):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request(method, target)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


# ---- command line and configuration ----


def test_version_and_help_end_with_success():
    assert run("--version").stdout.startswith("eventbusd ")
    text = run("--help").stdout
    for option in ("--listen", "--db", "--config", "--dedupe-window", "--backup", "--repair", "--token-file", "--min-free"):
        assert option in text


def test_an_unknown_option_is_named_and_ends_with_2():
    result = run("--no-such-thing")
    assert result.returncode == 2 and "--no-such-thing" in result.stderr and "--help" in result.stderr


def test_check_config_names_file_line_and_what_would_be_right(tmp_path):
    path = tmp_path / "bus.ini"
    path.write_text("max_payload = 2M\n; fine\nmax_batch = many\nretention_agee = 3d\n")
    result = run("--check-config", "--config", path)
    assert result.returncode == 2
    assert f"{path}:3: max_batch = \"many\": must be a whole number" in result.stderr
    assert f"{path}:4: unknown setting \"retention_agee\"" in result.stderr
    path.write_text("max_payload = 2M\n")
    assert run("--check-config", "--config", path).returncode == 0


def test_command_line_beats_environment_beats_file(tmp_path):
    path = tmp_path / "bus.ini"
    path.write_text("max_payload = 1K\nmax_batch = 11\nreaders = 1\n")
    env = {"EVENTBUS_MAX_BATCH": "22", "EVENTBUS_READERS": "2"}
    printed = run("--print-config", "--config", path, "--readers", "3", env=env).stdout.splitlines()
    assert "max_payload = 1K" in printed and "max_batch = 22" in printed and "readers = 3" in printed


def test_an_unreadable_config_is_refused(tmp_path):
    result = run("--config", tmp_path / "absent.ini")
    assert result.returncode == 2 and "absent.ini" in result.stderr and "No such file" in result.stderr


def test_limits_and_what_is_kept_are_shown(start_broker):
    broker = start_broker("--max-batch", "77", "--retention-age", "90d")
    limits = broker.stats()["limits"]
    assert limits["max_batch"] == 77 and limits["retention_age"] == 90 * 86400 and limits["max_payload"] == 1 << 20
    assert broker.said("older than 7776000 s")


# ---- addresses ----


def test_several_addresses_and_a_unix_socket(start_broker, tmp_path):
    path = tmp_path / "bus.sock"
    broker = start_broker("--listen", "[::1]:0", "--listen", f"unix:{path}")
    wait_for(lambda: len(broker.addresses) == 3)
    assert broker.addresses[1].startswith("[::1]:") and broker.addresses[2] == f"unix:{path}"
    assert broker.get("/healthz").status == 200
    assert unix_request(path, "GET", "/healthz")[0] == 200
    with socket.create_connection(("::1", int(broker.addresses[1].rsplit(":", 1)[1]))) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert broker.stop() == 0
    assert not path.exists()


def test_a_socket_file_left_by_a_crash_is_replaced(start_broker, tmp_path):
    path = tmp_path / "bus.sock"
    broker = start_broker("--listen", f"unix:{path}")
    broker.kill()
    assert stat.S_ISSOCK(path.stat().st_mode)
    broker.start()
    assert unix_request(path, "GET", "/healthz")[0] == 200


def test_beyond_loopback_is_refused_and_the_message_says_both_ways_out(tmp_path):
    result = run("--listen", "0.0.0.0:0", "--db", tmp_path / "x.db")
    assert result.returncode == 1
    assert "token_file" in result.stderr and "insecure = true" in result.stderr
    assert not (tmp_path / "x.db").exists()


def test_beyond_loopback_with_a_token_asks_for_it(start_broker, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("# ours\nsecret-1\n")
    broker = start_broker("--token-file", tokens, listen="0.0.0.0:0")
    assert broker.get("/v1/stats").status == 401
    assert broker.get("/v1/stats", Authorization="Bearer secret-1").status == 200
    assert broker.get("/healthz").status == 200


def test_an_address_in_use_is_said_before_a_log_is_made(broker, tmp_path):
    result = run("--listen", f"127.0.0.1:{broker.port}", "--db", tmp_path / "other.db")
    assert result.returncode == 1 and "address already in use" in result.stderr
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("where", ["3000", "127.0.0.1", "127.0.0.1:99999", "unix:", "[::1:3000", "no such host:1"])
def test_a_bad_address_is_refused(where, tmp_path):
    result = run("--listen", where, "--db", tmp_path / "x.db")
    assert result.returncode == 1 and "listen" in result.stderr


# ---- life and death ----


def test_a_second_broker_on_the_same_file_is_refused(broker):
    result = run("--listen", "127.0.0.1:0", "--db", broker.db)
    assert result.returncode == 1
    assert "EB-START-FAILED" in result.stderr and str(broker.db) in result.stderr
    assert broker.publish("still.here", b"x")["seq"] == 1


def test_sigterm_answers_what_is_in_flight_and_exits_0(start_broker):
    """A publish that was sent before the signal is either answered and stored, or never acknowledged."""
    broker = start_broker()
    acked, stop = [], threading.Event()

    def publish():
        connection = http.client.HTTPConnection("127.0.0.1", broker.port, timeout=30)
        try:
            while not stop.is_set():
                connection.request("POST", "/v1/topics/t/events", b"x")
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status == 201:
                    acked.append(answer["seq"])
                else:
                    return
        except (OSError, http.client.HTTPException):
            return

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acked) > 200)
    assert broker.stop() == 0
    stop.set()
    for thread in threads:
        thread.join()
    broker.start()
    assert set(acked) <= {event["seq"] for event in broker.events()}


def test_while_it_drains_readyz_is_503_and_a_second_signal_ends_it(start_broker):
    """A subscriber that never reads holds the drain; the operator's second signal does not wait for it."""
    broker = start_broker("--drain-timeout", "60s", "--storage", "memory")
    stuck = socket.create_connection(("127.0.0.1", broker.port))
    stuck.sendall(b"GET /v1/stream?pattern=%23&starting_seq=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    for _ in range(12):
        broker.publish("big", b"x" * (1 << 20))
    broker.process.send_signal(signal.SIGTERM)
    wait_for(lambda: any("ending" in line for line in broker.log))
    broker.process.send_signal(signal.SIGTERM)
    broker.process.wait(20)
    stuck.close()


def test_a_pid_file_is_there_while_it_runs(start_broker, tmp_path):
    path = tmp_path / "bus.pid"
    broker = start_broker("--pid-file", path)
    assert int(path.read_text()) == broker.pid
    broker.stop()
    assert not path.exists()


def test_sighup_reads_tokens_and_settings_again_and_reopens_the_log(start_broker, tmp_path):
    tokens, log, config = tmp_path / "tokens", tmp_path / "bus.log", tmp_path / "bus.ini"
    tokens.write_text("old\n")
    config.write_text(f"token_file = {tokens}\nlog_file = {log}\nmin_free = 1M\n")
    broker = start_broker("--config", config)
    assert broker.get("/v1/stats", Authorization="Bearer old").status == 200
    log.rename(tmp_path / "bus.log.1")
    tokens.write_text("new\n")
    config.write_text(f"token_file = {tokens}\nlog_file = {log}\nmin_free = 2M\nreaders = 2\n")
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: log.exists() and "EB-RELOADED" in log.read_text())
    assert "EB-RELOAD-RESTART" in log.read_text() and "readers" in log.read_text()
    assert broker.get("/v1/stats", Authorization="Bearer old").status == 401
    assert broker.get("/v1/stats", Authorization="Bearer new").json["limits"]["min_free"] == 2 << 20


def test_sighup_with_a_bad_file_changes_nothing(start_broker, tmp_path):
    config = tmp_path / "bus.ini"
    config.write_text("min_free = 1M\n")
    broker = start_broker("--config", config)
    config.write_text("min_free = plenty\n")
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("EB-RELOAD-FAILED" in line for line in broker.log))
    assert broker.stats()["limits"]["min_free"] == 1 << 20


def test_systemd_is_told_ready_alive_and_stopping(start_broker, tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(30)
        # WATCHDOG_PID is left out: it would have to be the daemon's own.
        broker = start_broker(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"})
        heard = set()
        while not {"READY=1", "WATCHDOG=1"} <= heard:
            heard.add(notify.recv(4096).decode())
        broker.process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in heard:
            heard.add(notify.recv(4096).decode())


def test_json_log_lines_are_json(start_broker):
    broker = start_broker("--log-format", "json")
    broker.stop()
    assert broker.log
    for line in broker.log:
        assert {"ts", "level", "msg"} <= set(json.loads(line))


# ---- limits ----


def test_max_connections_is_held_against_the_limit_of_open_files(tmp_path):
    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))

    options = ["--listen", "127.0.0.1:0", "--db", tmp_path / "x.db"]
    result = run(*options, "--max-connections", "5000", preexec_fn=few_files)
    assert result.returncode == 1 and "max_connections = 5000" in result.stderr and "LimitNOFILE" in result.stderr
    broker = Broker(db=tmp_path / "y.db", wrapper=["sh", "-c", 'ulimit -n 600; exec "$0" "$@"'])
    try:
        broker.start()
        assert broker.said("EB-FILE-LIMIT")
        assert broker.publish("t", b"x")["seq"] == 1
    finally:
        broker.finish()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said(tmp_path):
    (tmp_path / "ro").mkdir(mode=0o555)
    result = run("--listen", "127.0.0.1:0", "--db", tmp_path / "ro" / "x.db")
    assert result.returncode == 1 and "ro" in result.stderr


def test_a_missing_folder_is_said(tmp_path):
    result = run("--listen", "127.0.0.1:0", "--db", tmp_path / "nowhere" / "x.db")
    assert result.returncode == 1 and "nowhere" in result.stderr


def test_no_file_is_left_beside_the_log_after_an_orderly_end(start_broker):
    broker = start_broker()
    broker.publish("t", b"x")
    broker.stop()
    left = {path.name for path in pathlib.Path(broker.db).parent.iterdir()}
    assert left <= {broker.db.name, broker.db.name + ".lock"}
