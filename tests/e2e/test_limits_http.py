"""What HTTP may cost in memory: bodies in flight are bounded over all connections."""
import socket

from lib.broker import wait_for


def begin_upload(broker, total, sent):
    """A POST of `total` bytes of which `sent` are sent, and no more for now."""
    connection = socket.create_connection(("127.0.0.1", broker.port), timeout=30)
    connection.sendall(f"POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {total}\r\n\r\n".encode() + b"x" * sent)
    return connection


def test_bodies_in_memory_are_bounded_over_all_connections(start_broker):
    """Uploads beyond max_body_bytes get 503 with Retry-After; those within it go on, and room comes back."""
    broker = start_broker("--max-body-bytes", "1M")
    size = 400 * 1024
    waiting = [begin_upload(broker, size, size - 1) for _ in range(2)]
    wait_for(lambda: broker.metric("eventbus_http_received_bytes_total") >= 2 * (size - 1), what="the uploads")
    refused = begin_upload(broker, size, size)
    answer = refused.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After:" in answer and b"max_body_bytes" in answer
    for connection in waiting:
        connection.sendall(b"x")
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    again = begin_upload(broker, size, size)
    assert again.recv(65536).startswith(b"HTTP/1.1 201 ")
    for connection in [*waiting, refused, again]:
        connection.close()
