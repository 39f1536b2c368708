"""RFC 6455 as the broker keeps it: handshake, frames, fragments, control frames, UTF-8, closing."""
import json
import random
import socket
import struct

import pytest

from lib.ws import BINARY, CLOSE, JSON_V1, PING, PONG, TEXT, Closed, WebSocket, frame, handshake

PING_REQUEST = b'{"type":"ping","id":1}'
PONG_ANSWER = {"type": "pong", "id": 1}


@pytest.fixture
def broker(start_broker):
    return start_broker("--storage", "memory", db=None)


@pytest.fixture
def ws(broker):
    with WebSocket(broker.port) as ws:
        yield ws


# ---- handshake ----


def test_the_example_key_of_the_rfc_is_accepted_as_it_says(broker):
    _, status, headers, _ = handshake(broker.port, key="dGhlIHNhbXBsZSBub25jZQ==")
    assert status == 101
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert headers["upgrade"].lower() == "websocket" and headers["connection"].lower() == "upgrade"
    assert "sec-websocket-protocol" not in headers and "sec-websocket-extensions" not in headers


GOOD = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


def shake(broker, extra=(), **changes):
    fields = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    _, status, headers, _ = handshake(broker.port, *lines, *extra, defaults=False)
    return status, headers


@pytest.mark.parametrize(
    "changes, status",
    [
        ({"Upgrade": None}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Upgrade": "h2c, WebSocket"}, 101),
        ({"Connection": "keep-alive, upgrade"}, 101),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=!"}, 400),
    ],
)
def test_a_handshake_is_validated_in_full(broker, changes, status):
    got, headers = shake(broker, **changes)
    assert got == status
    if status == 426:
        assert headers["sec-websocket-version"] == "13" and "websocket" in headers["upgrade"].lower()
    if status != 101:
        assert headers["content-type"] == "application/problem+json"


def test_a_connection_header_without_upgrade_is_refused(broker):
    assert shake(broker, Connection="keep-alive")[0] in (400, 426)


def test_a_key_given_twice_is_refused(broker):
    assert shake(broker, extra=["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])[0] == 400


@pytest.mark.parametrize(
    "asked, status, chosen",
    [
        (JSON_V1, 101, JSON_V1),
        ("other.v9, " + JSON_V1, 101, JSON_V1),
        ("other.v9", 400, None),
        ("EVENTBUS.JSON.V1", 400, None),
        ("bearer.Zm9v", 101, None),
        ("bearer.Zm9v, " + JSON_V1, 101, JSON_V1),
    ],
)
def test_only_a_subprotocol_of_ours_is_chosen_and_a_bearer_token_never(broker, asked, status, chosen):
    got, headers = shake(broker, Sec_WebSocket_Protocol=asked)
    assert (got, headers.get("sec-websocket-protocol")) == (status, chosen)


def test_subprotocols_over_several_header_lines_are_one_list(broker):
    got, headers = shake(broker, extra=["Sec-WebSocket-Protocol: other", f"Sec-WebSocket-Protocol: {JSON_V1}"])
    assert got == 101 and headers["sec-websocket-protocol"] == JSON_V1


def test_a_refused_subprotocol_is_told_which_are_spoken(broker):
    answer = broker.get("/ws", Upgrade="websocket", Connection="Upgrade", **{k: GOOD[k] for k in list(GOOD)[2:]}, **{"Sec-WebSocket-Protocol": "x"})
    assert answer.status == 400 and JSON_V1 in answer.json["detail"]


def test_permessage_deflate_is_not_negotiated(broker):
    got, headers = shake(broker, Sec_WebSocket_Extensions="permessage-deflate")
    assert got == 101 and "sec-websocket-extensions" not in headers


def test_a_frame_sent_together_with_the_handshake_is_not_lost(broker):
    """libmicrohttpd has read it with the request and hands it over as extra bytes."""
    sock = socket.create_connection(("127.0.0.1", broker.port))
    lines = [f"{name}: {value}" for name, value in GOOD.items()]
    request = "\r\n".join(["GET /ws HTTP/1.1", f"Host: 127.0.0.1:{broker.port}", *lines, "", ""]).encode()
    sock.sendall(request + frame(TEXT, PING_REQUEST) + frame(TEXT, b'{"type":"ping","id":2}')[:9])
    data = b""
    while b'"id":1}' not in data:
        data += sock.recv(4096)
    sock.sendall(frame(TEXT, b'{"type":"ping","id":2}')[9:])
    while b'"id":2}' not in data:
        data += sock.recv(4096)


# ---- frames ----


def test_a_message_in_single_bytes_is_read(ws):
    for byte in frame(TEXT, PING_REQUEST):
        ws.sock.sendall(bytes([byte]))
    assert ws.recv() == PONG_ANSWER


def test_a_fragmented_message_with_control_frames_between_is_one_message(ws):
    ws.send_frame(TEXT, PING_REQUEST[:5], fin=False)
    ws.send_frame(PING, b"a")
    ws.send_frame(0, b"", fin=False)
    ws.send_frame(PONG, b"unasked")
    ws.send_frame(0, PING_REQUEST[5:9], fin=False)
    ws.send_frame(PING, b"b")
    ws.send_frame(0, PING_REQUEST[9:])
    assert [ws.frame() for _ in range(3)] == [(PONG, b"a"), (PONG, b"b"), (TEXT, json.dumps(PONG_ANSWER, separators=(",", ":")).encode())]


def test_fragments_of_one_byte_are_joined(ws):
    text = json.dumps({"type": "ping", "id": "é" * 60}, ensure_ascii=False).encode()
    pieces = [frame(TEXT, text[:1], fin=False)] + [frame(0, text[i : i + 1], fin=False) for i in range(1, len(text))] + [frame(0)]
    ws.sock.sendall(b"".join(pieces))
    assert ws.recv() == {"type": "pong", "id": "é" * 60}


@pytest.mark.parametrize("seed", range(4))
def test_frames_of_all_kinds_cut_anywhere_are_read(ws, seed):
    """Messages of one frame, of fragments, larger than any buffer and of a few bytes, pings between them: each is
    answered in its order, wherever the stream is cut and however many frames come at once."""
    rng = random.Random(seed)
    stream, pings = b"", []
    for n in range(300):
        filler = rng.choice([0, 0, 0, 1, 90, 100, 140, 4000, 70000 if n % 50 == 0 else 10])
        text = json.dumps({"type": "ping", "id": n, "x": "é" * filler}, ensure_ascii=False).encode()
        kind = rng.randrange(4)
        if kind == 0:
            cut = rng.randrange(len(text))
            stream += frame(TEXT, text[:cut], fin=False) + frame(PING, b"in %d" % n) + frame(0, text[cut:])
            pings.append(b"in %d" % n)
        else:
            stream += frame(BINARY if kind == 1 else TEXT, text)
        if kind == 3:
            stream += frame(PING, b"%d" % n)
            pings.append(b"%d" % n)
    at, answers, pongs = 0, [], []
    while at < len(stream):
        size = rng.choice([1, 2, 3, 5, 14, 200, 4096, 5000, 65536, 100000])
        ws.sock.sendall(stream[at : at + size])
        at += size
    while len(answers) < 300 or not pongs or pongs[-1] != pings[-1]:
        opcode, data = ws.frame()
        if opcode == TEXT:
            answers.append(json.loads(data)["id"])
        else:
            pongs.append(data)
    assert answers == list(range(300))
    assert [ping for ping in pings if ping in pongs] == pongs  # in order; a full ring drops some (RFC 6455 5.5.3)


@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_ping_comes_back_with_its_payload(ws, size):
    ws.send_frame(PING, b"x" * size)
    assert ws.frame() == (PONG, b"x" * size)


def test_pings_in_a_row_are_answered_in_order(ws):
    ws.sock.sendall(b"".join(frame(PING, b"%d" % i) for i in range(10)))
    assert [ws.frame() for _ in range(10)] == [(PONG, b"%d" % i) for i in range(10)]


def test_a_flood_of_pings_costs_pongs_but_no_memory_and_no_close(ws):
    """Only the latest ping must be answered (RFC 6455 5.5.3)."""
    for _ in range(20):
        ws.sock.sendall(frame(PING, b"x" * 125) * 500)
    ws.send_frame(PING, b"last")
    while ws.frame() != (PONG, b"last"):
        pass


def test_unasked_pongs_are_ignored(ws):
    ws.send_frame(PONG, b"y" * 125)
    ws.send(PING_REQUEST)
    assert ws.recv() == PONG_ANSWER


@pytest.mark.parametrize("size", [125, 126, 127, 65535, 65536, 200000])
def test_every_length_form_is_read_and_written(ws, size):
    ws.subscribe("t")
    assert ws.publish("t", "p" * size)["type"] == "ok"
    assert ws.event()["payload"] == "p" * size


@pytest.mark.parametrize(
    "bad",
    [
        frame(TEXT, PING_REQUEST, mask=None),
        frame(PING, b"x", mask=None),
        frame(TEXT, PING_REQUEST, rsv=1),
        frame(TEXT, PING_REQUEST, rsv=2),
        frame(TEXT, PING_REQUEST, rsv=4),
        frame(PING, b"", rsv=4),
        *[frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
        frame(0, b"continuation of nothing"),
        frame(0, b"", fin=False),
        frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"),
        frame(TEXT, b"{", fin=False) + frame(BINARY, b"}"),
        frame(PING, b"x" * 126),
        frame(PONG, b"x" * 126),
        frame(CLOSE, b"\x03\xe8" + b"x" * 124),
        frame(PING, b"x", fin=False),
        frame(CLOSE, b"", fin=False),
        b"\x81\xfe\x00\x05" + b"\0" * 9,  # 5 bytes in the 16-bit form
        b"\x81\xff" + struct.pack(">Q", 5) + b"\0" * 9,
        b"\x81\xff" + b"\xff" * 8 + b"\0" * 9,  # the sign bit of the length
    ],
)
def test_broken_framing_closes_with_1002(ws, bad):
    ws.sock.sendall(bad)
    assert ws.close_code() == 1002


def test_requests_before_broken_framing_were_carried_out(broker, ws):
    ws.send({"type": "publish", "data": {"topic": "t", "payload": "kept"}})
    ws.sock.sendall(frame(3, b""))
    assert ws.close_code() == 1002
    assert [event["payload"] for event in broker.events("t")] == ["kept"]


# ---- UTF-8 ----

INVALID = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf8\x88\x80\x80\x80"]


@pytest.mark.parametrize("bad", INVALID)
def test_a_text_that_is_not_utf8_closes_with_1007(ws, bad):
    ws.send_frame(TEXT, b'{"type":"ping","id":"' + bad + b'"}')
    assert ws.close_code() == 1007


@pytest.mark.parametrize("bad", INVALID)
def test_a_binary_frame_that_is_not_utf8_is_invalid_json(ws, bad):
    ws.send_frame(BINARY, b'{"type":"ping","id":"' + bad + b'"}')
    answer = ws.recv()
    assert (answer["type"], answer["id"], answer["code"]) == ("error", None, "invalid_json")


def test_a_code_point_split_over_fragments_is_valid(ws):
    text = '{"type":"ping","id":"κόσμε𝄞"}'.encode()
    for cut in range(len(text)):
        ws.sock.sendall(frame(TEXT, text[:cut], fin=False) + frame(0, text[cut:]))
        assert ws.recv()["id"] == "κόσμε𝄞"


def test_bad_utf8_in_a_fragment_is_found_before_the_message_ends(ws):
    ws.send_frame(TEXT, b'{"x":"\xce\xba\xe1\xbd', fin=False)
    ws.send_frame(0, b"\xb9\xed\xa0\x80", fin=False)
    assert ws.close_code() == 1007


# ---- size ----


def test_a_message_above_max_message_closes_with_1009(start_broker):
    broker = start_broker("--storage", "memory", "--max-payload", "1000", "--max-message", "5000", db=None)
    with WebSocket(broker.port) as ws:
        ws.send('{"type":"ping","id":1' + " " * (5000 - 22) + "}")
        assert ws.recv() == PONG_ANSWER
        ws.send('{"type":"ping","id":1' + " " * (5001 - 22) + "}")
        assert ws.close_code() == 1009
    with WebSocket(broker.port) as ws:
        ws.send_frame(TEXT, b" " * 3000, fin=False)
        ws.send_frame(0, b" " * 3000)
        assert ws.close_code() == 1009
    with WebSocket(broker.port) as ws:  # its header alone says so
        ws.sock.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"\0" * 8)
        assert ws.close_code() == 1009


def test_a_payload_above_max_payload_in_a_message_that_fits_is_answered(start_broker):
    broker = start_broker("--storage", "memory", "--max-payload", "1000", db=None)
    with WebSocket(broker.port) as ws:
        assert ws.publish("t", "x" * 1001)["code"] == "payload_too_large"
        assert ws.publish("t", "\0" * 1000)["type"] == "ok"


# ---- closing ----


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_a_valid_close_code_is_given_back(ws, code):
    ws.send_frame(CLOSE, struct.pack(">H", code) + "bye é".encode())
    assert ws.close_code() == code


def test_an_empty_close_is_answered_by_an_empty_close(ws):
    ws.send_frame(CLOSE)
    assert ws.close_code() == 1005


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_an_invalid_close_code_closes_with_1002(ws, code):
    ws.send_frame(CLOSE, struct.pack(">H", code))
    assert ws.close_code() == 1002


def test_a_close_of_one_byte_closes_with_1002(ws):
    ws.send_frame(CLOSE, b"\x03")
    assert ws.close_code() == 1002


def test_a_close_reason_that_is_not_utf8_closes_with_1007(ws):
    ws.send_frame(CLOSE, b"\x03\xe8\xed\xa0\x80")
    assert ws.close_code() == 1007


def test_a_close_inside_a_fragmented_message_is_obeyed(ws):
    ws.send_frame(TEXT, b"{", fin=False)
    ws.send_frame(CLOSE, struct.pack(">H", 1000))
    assert ws.close_code() == 1000


def test_what_follows_a_close_is_ignored(broker, ws):
    ws.sock.sendall(frame(CLOSE, struct.pack(">H", 1000)) + frame(TEXT, b'{"type":"publish","data":{"topic":"t","payload":""}}'))
    assert ws.close_code() == 1000
    assert broker.events("t") == []


def test_requests_sent_before_a_close_are_answered_before_it(ws):
    requests = [frame(TEXT, json.dumps({"type": "publish", "id": i, "data": {"topic": "t", "payload": ""}}).encode()) for i in range(200)]
    ws.sock.sendall(b"".join(requests) + frame(CLOSE, struct.pack(">H", 1000)))
    answers = []
    with pytest.raises(Closed) as closed:
        while True:
            answers.append(ws.next()["id"])
    assert sorted(answers) == list(range(200)) and closed.value.code == 1000


def test_a_client_that_only_shuts_its_sending_side_still_gets_the_close(ws):
    ws.send_frame(CLOSE, struct.pack(">H", 1000))
    ws.sock.shutdown(socket.SHUT_WR)
    assert ws.close_code() == 1000


def test_the_broker_closes_the_tcp_connection_first(ws):
    """RFC 6455 7.1.1: the server ends it, so that the client is not left in TIME_WAIT."""
    ws.send_frame(CLOSE, struct.pack(">H", 1000))
    assert ws.frame() == (CLOSE, struct.pack(">H", 1000))
    with pytest.raises(Closed):
        ws.frame()
