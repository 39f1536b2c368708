"""The programs of examples/: what they print, what they answer, and that no kill -9 breaks what they promise."""
import http.client
import json
import os
import pathlib
import pty
import re
import signal
import sqlite3
import subprocess
import threading

import pytest

from lib.broker import PATIENCE, Answer, wait_for

ROOT = pathlib.Path(__file__).parent.parent.parent


class Service:
    """An example that serves HTTP and says where: started, killed and started again on the same files and port."""

    def __init__(self, command):
        self.command = [str(part) for part in command]
        self.process, self.port, self.log = None, 0, []

    def start(self):
        self.process = subprocess.Popen(
            [*self.command, "--port", str(self.port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in self.process.stdout:
            self.log.append(line)
            if match := re.match(r"\w+: http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(match[1])
                break
        assert self.port, "".join(self.log)
        threading.Thread(target=lambda stream: self.log.extend(stream), args=(self.process.stdout,), daemon=True).start()
        return self

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body=body if body is None or isinstance(body, (bytes, str)) else json.dumps(body))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        report = [line for line in self.log if "Sanitizer" in line or "runtime error:" in line]
        assert not report, "".join(self.log)
        return self.process.returncode


@pytest.fixture
def services(build, tmp_path):
    """(user_service, user_sync), not started; both end with the test."""
    service = Service([build / "examples/user_service", "--db", tmp_path / "users.db", "--bus", tmp_path / "eventbus.db"])
    sync = Service([build / "examples/user_sync", "--db", tmp_path / "copy.db"])
    yield service, sync
    for one in (sync, service):
        if one.process:
            one.stop()


@pytest.fixture
def service(services):
    return services[0].start()


def follow(services):
    service, sync = services
    sync.command += ["--url", f"ws://127.0.0.1:{service.port}/ws"]
    return sync.start()


def create(service, number, name=None):
    return service.request("POST", "/api/users", {"id": number, "username": name or f"user{number}"})


def events(service):
    return service.request("GET", "/v1/events?pattern=user.%23&limit=1000").json["events"]


# ---- chat_stress ----


def test_chat_stress_says_what_it_was_asked_to_say(build):
    """1,000 messages unless told otherwise, and the two lines by themselves."""
    run = subprocess.run([build / "examples/chat_stress"], capture_output=True, text=True, timeout=PATIENCE)
    lines = run.stdout.splitlines()
    assert run.returncode == 0, run
    assert lines[0] == "Subscriber received 1000 messages"
    assert lines[-1] == "Stress test completed!"
    assert run.stderr == ""


def test_chat_stress_draws_a_bar_and_tells_the_rate(build):
    """A large number, on a terminal: a bar to 100 %, and messages a second at the end."""
    master, slave = pty.openpty()
    shown = []

    def read():
        try:
            while data := os.read(master, 65536):
                shown.append(data.decode())
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    command = [build / "examples/chat_stress", "--messages", "20000", "--storage", "memory"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, text=True, timeout=PATIENCE)
    os.close(slave)
    reader.join(PATIENCE)
    os.close(master)
    assert run.returncode == 0
    assert "Subscriber received 20000 messages" in run.stdout
    assert re.search(r"^\d+ messages a second", run.stdout, re.M)
    assert "] 100%" in "".join(shown)


@pytest.mark.parametrize(
    "command",
    ["chat_stress --messages 0", "chat_stress --messages many", "chat_stress --no-such", "chat_stress extra"]
    + ["user_service --port x", "user_service --port 70000", "user_service extra"]
    + ["user_sync --port x", "user_sync --port 70000", "user_sync extra"],
)
def test_an_example_refuses_what_it_does_not_understand(build, command):
    program, *arguments = command.split()
    run = subprocess.run([build / "examples" / program, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 2
    assert "usage" in run.stderr


# ---- user_service ----


def test_a_user_is_stored_and_announced(service):
    answer = service.request("POST", "/api/users", '{"id":1,"username":"alice"}')
    assert answer.status == 201
    assert answer.json == {"id": 1, "username": "alice"}
    wait_for(lambda: len(events(service)) == 1)
    (event,) = events(service)
    assert event["topic"] == "user.created"
    assert json.loads(event["payload"]) == {"id": 1, "username": "alice"}
    assert event["metadata"]["content_type"] == "application/json"
    assert service.request("GET", "/api/users").json == [{"id": 1, "username": "alice"}]


@pytest.mark.parametrize(
    "body, word",
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"id":1,"username":"a"} x', "JSON"),
        (b'{"id":1,"username":"\xff"}', "JSON"),
        (b'{"id":1,"username":"a"}\0', "JSON"),
        (b"[]", "object"),
        (b"null", "JSON"),
        (b'{"username":"a"}', '"id" is missing'),
        (b'{"id":"1","username":"a"}', '"id"'),
        (b'{"id":1.5,"username":"a"}', '"id"'),
        (b'{"id":0,"username":"a"}', '"id"'),
        (b'{"id":9007199254740992,"username":"a"}', '"id"'),
        (b'{"id":99999999999999999999,"username":"a"}', '"id"'),
        (b'{"id":1}', '"username" is missing'),
        (b'{"id":1,"username":7}', '"username"'),
        (b'{"id":1,"username":""}', '"username"'),
        (b'{"id":1,"username":"a\\u0000b"}', '"username"'),
        (b'{"id":1,"username":"' + b"x" * 65 + b'"}', '"username"'),
    ],
)
def test_bad_input_is_named(service, body, word):
    """400 as problem+json that says what is wrong; nothing is stored, nothing announced."""
    answer = service.request("POST", "/api/users", body)
    assert answer.status == 400, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == 400
    assert word in answer.json["detail"]
    assert service.request("GET", "/api/users").json == []
    assert events(service) == []


def test_other_refusals(service):
    assert create(service, 1, "alice").status == 201
    assert create(service, 1, "mallory").status == 409
    assert create(service, 1, "alice").status == 409
    assert service.request("POST", "/api/users", b" " * 70000).status == 413
    assert service.request("GET", "/api/nothing").status == 404
    refused = service.request("DELETE", "/api/users")
    assert refused.status == 405 and "POST" in refused.headers["Allow"]
    wait_for(lambda: len(events(service)) == 1)


def test_the_bus_is_served_beside_the_api(service):
    answer = service.request("POST", "/v1/topics/chat.a%2Fb/events", b"hello")
    assert answer.status == 201
    assert service.request("GET", f"/v1/events/{answer.json['seq']}").json["topic"] == "chat.a/b"
    for path in ("/healthz", "/readyz", "/metrics"):
        assert service.request("GET", path).status == 200
    assert service.request("GET", "/ws").status in (400, 426)


def outbox(tmp_path, query="SELECT count(*) FROM eventbus_outbox"):
    with sqlite3.connect(tmp_path / "users.db") as db:
        return db.execute(query).fetchone()[0]


def test_what_was_committed_and_not_relayed_is_relayed_at_the_next_start(service, tmp_path):
    """Killed between the COMMIT and the relay: the event follows at the next start, once, however often that is."""
    assert create(service, 1, "alice").status == 201
    wait_for(lambda: len(events(service)) == 1)
    service.kill()
    with sqlite3.connect(tmp_path / "users.db") as db:
        db.execute("INSERT INTO users(id, username) VALUES (2, 'bob')")
        db.execute(
            "INSERT INTO eventbus_outbox(place, id, topic, payload, deliver_at)"
            " SELECT top + 1, randomblob(16), 'user.created', CAST('{\"id\":2}' AS BLOB), 0 FROM eventbus_outbox_state"
        )
    for _ in range(2):
        service.start()
        wait_for(lambda: [json.loads(event["payload"])["id"] for event in events(service)] == [1, 2])
        wait_for(lambda: outbox(tmp_path) == 0)
        service.kill()


def test_a_refused_user_leaves_no_event(service, tmp_path):
    """The transaction of a user that is there already is rolled back, with its event."""
    assert create(service, 3, "carol").status == 201
    assert create(service, 3, "mallory").status == 409
    wait_for(lambda: outbox(tmp_path) == 0 and len(events(service)) == 1)
    assert service.request("GET", "/api/users").json == [{"id": 3, "username": "carol"}]


def test_the_service_ends_in_order_with_a_follower(services):
    service, sync = services
    service.start()
    follow(services)
    assert create(service, 1).status == 201
    wait_for(lambda: len(sync.request("GET", "/users").json) == 1)
    assert service.stop() == 0
    assert sync.stop() == 0


# ---- the pair ----


class Load(threading.Thread):
    """Creates users one after the other until told to stop; one that was not answered 201 is sent again until it is."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service, self.created, self.ending = service, [], threading.Event()

    def run(self):
        number = 1
        while not self.ending.is_set():
            try:
                status = create(self.service, number).status
            except (OSError, http.client.HTTPException):
                continue
            if status in (201, 409):  # 409: the answer of an earlier try was lost in the kill
                self.created.append(number)
                number += 1


def test_kills_of_either_side_lose_nothing_and_repeat_nothing(services):
    """Under load, each side killed in turn: in the end the copy has every user, with exactly one event each."""
    service, sync = services
    service.start()
    follow(services)
    load = Load(service)
    load.start()
    for victim in (service, sync, service, service, sync, sync):
        before = len(load.created)
        wait_for(lambda: len(load.created) > before + 20, what="users under load")
        victim.kill()
        victim.start()
    load.ending.set()
    load.join(PATIENCE)
    users = service.request("GET", "/api/users").json
    assert [user["id"] for user in users] == load.created
    wanted = [{**user, "events": 1} for user in users]
    wait_for(lambda: sync.request("GET", "/users").json == wanted, what="the copy")
    assert len(events(service)) <= 1000
    assert sync.request("GET", "/nothing").status == 404


def test_the_demo_of_the_pair(build):
    run = subprocess.run([ROOT / "examples/users_demo.sh", build], capture_output=True, text=True, timeout=2 * PATIENCE)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "users_demo: the copy is in step, every user was applied once"
