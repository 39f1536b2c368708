"""examples/webhook_receiver.c: believes what is signed as Standard Webhooks says, and nothing else."""
import base64
import hashlib
import hmac
import http.client
import json
import re
import signal
import subprocess
import threading
import time

import pytest

from lib.broker import PATIENCE, wait_for

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def signature(body, id="msg_1", at=None, key=KEY):
    digest = hmac.new(key, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class Receiver:
    def __init__(self, program, *options):
        self.process = subprocess.Popen([program, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = []
        self.port = int(re.search(r":(\d+)/", self.process.stdout.readline())[1])
        self.thread = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def post(self, body=b"hello", id="msg_1", at=None, signed=None, method="POST", **more):
        at = int(time.time()) if at is None else at
        headers = {"webhook-id": id, "webhook-timestamp": str(at), "ce-type": "order.paid",
                   "webhook-signature": signature(body, id, at) if signed is None else signed, **more}  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, "/", body=body, headers={name: value for name, value in headers.items() if value is not None})
            return connection.getresponse().status
        finally:
            connection.close()

    def finish(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0
        self.thread.join(PATIENCE)
        assert not [line for line in self.lines if "Sanitizer" in line or "runtime error" in line], self.lines


@pytest.fixture
def receiver(build):
    receiver = Receiver(build / "examples/webhook_receiver", "--secret", SECRET)
    yield receiver
    receiver.finish()


def test_what_is_signed_is_taken(receiver):
    assert receiver.post() == 204
    assert receiver.post(b"", id="msg_2") == 204
    assert receiver.post(b"\x1b[2J\0", id="msg_3") == 204
    wait_for(lambda: len(receiver.lines) == 3, what="three lines")
    assert receiver.lines[0] == "order.paid msg_1, 5 bytes: hello\n"
    assert "\x1b" not in receiver.lines[2], "what others wrote does not command the terminal"


def test_a_consumer_of_a_real_broker_is_believed(start_broker, receiver):
    """What the broker signs the example takes, so each event is acknowledged; one that does not know the secret is refused."""
    broker = start_broker("--webhook-allow", "127.0.0.1")
    other = "whsec_" + base64.b64encode(b"y" * 32).decode()
    for name, secret in (("ours", SECRET), ("others", other)):
        body = {"patterns": ["order.#"], "from": "all", "push": {"url": receiver.url, "secret": secret}}
        assert broker.request("PUT", f"/v1/consumers/{name}", json.dumps(body)).status == 201
    for n in range(5):
        broker.publish("order.paid", f"number {n}")
    wait_for(lambda: broker.get("/v1/consumers/ours").json["lag"]["events"] == 0, what="all acknowledged")
    taken = [line for line in receiver.lines if not line.startswith("webhook_receiver")]
    assert sorted(line.split(": ")[1].strip() for line in taken) == [f"number {n}" for n in range(5)]
    assert all(line.startswith("order.paid ") for line in taken)
    wait_for(lambda: any("no signature is ours" in line for line in receiver.lines), what="a refusal")
    assert broker.get("/v1/consumers/others").json["acked"] == 0


def test_what_comes_again_is_known_by_its_id(receiver):
    assert [receiver.post(), receiver.post()] == [204, 204]
    wait_for(lambda: len(receiver.lines) == 2, what="two lines")
    assert "(again)" not in receiver.lines[0] and "(again)" in receiver.lines[1]


def test_one_of_several_signatures_is_enough(receiver):
    """While a secret is exchanged there are two; versions to come are passed over."""
    at = int(time.time())
    other = signature(b"hello", at=at, key=b"x" * 32)
    ours = signature(b"hello", at=at)
    assert receiver.post(at=at, signed=f"{other} {ours}") == 204
    assert receiver.post(at=at, signed=f"v1a,abc {ours} v2,{ours[3:]}") == 204
    assert receiver.post(at=at, signed=f"{other} v2,{ours[3:]}") == 401


@pytest.mark.parametrize("change", [dict(body=b"hellO"), dict(id="msg_2"), dict(at=1), dict(signed="v1,"), dict(signed="v1,AAAA"), dict(signed="")])
def test_what_was_changed_is_refused(receiver, change):
    at = int(time.time())
    assert receiver.post(**{"at": at, "signed": signature(b"hello", at=at), **change}) == 401
    wait_for(lambda: receiver.lines, what="the refusal")
    assert "refused" in receiver.lines[0] and "order.paid" not in "".join(receiver.lines)


@pytest.mark.parametrize("off", [-400, 400])
def test_a_recorded_call_is_worth_nothing_later(receiver, off):
    """Signed soundly, but long ago, or far ahead."""
    assert receiver.post(at=int(time.time()) + off) == 401


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_what_is_not_a_webhook_is_refused(receiver, name):
    assert receiver.post(**{name: None}) == 400
    assert receiver.post(**{"webhook-timestamp": "soon"}) == 400
    assert receiver.post(method="PUT") == 405


def test_a_body_has_a_bound(receiver):
    assert receiver.post(b"x" * (1 << 20)) == 204
    assert receiver.post(b"x" * ((1 << 20) + 1)) == 413


@pytest.mark.parametrize("options", [[], ["--secret", "hello"], ["--secret", "whsec_AAAA"], ["--secret", "whsec_" + "!" * 40],
                                     ["--secret", "whsec_" + "A" * 200], ["--secret", SECRET, "--port", "x"],
                                     ["--secret", SECRET, "--tolerance", "-1"], ["--secret", SECRET, "extra"]])  # fmt: skip
def test_it_refuses_what_it_does_not_understand(build, options):
    run = subprocess.run([build / "examples/webhook_receiver", *options], capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 2 and "usage" in run.stderr
