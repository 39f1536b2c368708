"""A TCP proxy that knows WebSocket frames: it cuts, stalls or halves the stream at a chosen frame, in either direction."""
import collections
import socket
import struct
import threading

Fault = collections.namedtuple("Fault", "direction frame kind")  # frame: 0 is the handshake's head, 1 the first frame
Fault.__doc__ = """direction "up" (client to broker) or "down"; kind:
cut    the connection is reset when this frame is about to go: it is not sent
halve  half of the frame is sent, then the connection is reset
after  the frame is sent whole, then the connection is reset
stall  from this frame on nothing goes that way any more; the connection stays open (a half-open peer)
split  the frame goes in single bytes: no fault, only an ugly network"""


def frame_length(buffer):
    """Bytes of the first whole frame in the buffer, or 0."""
    if len(buffer) < 2:
        return 0
    masked, size, head = buffer[1] & 0x80, buffer[1] & 0x7F, 2
    if size == 126:
        if len(buffer) < 4:
            return 0
        size, head = struct.unpack(">H", buffer[2:4])[0], 4
    elif size == 127:
        if len(buffer) < 10:
            return 0
        size, head = struct.unpack(">Q", buffer[2:10])[0], 10
    total = head + (4 if masked else 0) + size
    return total if len(buffer) >= total else 0


class Pair:
    """One proxied connection: two threads, a frame counter each."""

    def __init__(self, proxy, client, faults):
        self.proxy, self.client, self.faults = proxy, client, faults
        self.broker = socket.create_connection(("127.0.0.1", proxy.target()))
        for sock in (self.client, self.broker):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open = True
        for direction, source, sink in (("up", self.client, self.broker), ("down", self.broker, self.client)):
            threading.Thread(target=self._run, args=(direction, source, sink), daemon=True).start()

    def reset(self):
        with self.proxy.lock:
            was, self.open = self.open, False
            if was:
                self.proxy.pairs.discard(self)
        if was:
            for sock in (self.client, self.broker):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                sock.close()

    def _pieces(self, source):
        """The handshake's head, then whole frames."""
        buffer, head = b"", True
        while True:
            if head:
                end = buffer.find(b"\r\n\r\n")
                size = end + 4 if end >= 0 else 0
            else:
                size = frame_length(buffer)
            if size:
                yield buffer[:size]
                buffer, head = buffer[size:], False
                continue
            data = source.recv(65536)
            if not data:
                if buffer:
                    yield buffer
                return
            buffer += data

    def _run(self, direction, source, sink):
        try:
            for index, piece in enumerate(self._pieces(source)):
                kind = self.faults.get((direction, index))
                self.proxy.passed[direction] = max(self.proxy.passed[direction], index)
                if kind in ("cut", "halve", "after", "stall"):
                    self.proxy.hits += 1
                if kind == "cut":
                    return
                if kind == "halve":
                    sink.sendall(piece[: max(1, len(piece) // 2)])
                    return
                if kind == "stall":
                    while source.recv(65536):
                        pass
                    return
                if kind == "split":
                    for byte in piece:
                        sink.sendall(bytes([byte]))
                else:
                    sink.sendall(piece)
                if kind == "after":
                    return
        except OSError:
            pass
        finally:
            self.reset()


class Proxy:
    """Faults apply to the connections in turn: faults[0] to the first, …; what comes after them is passed untouched."""

    def __init__(self, target, faults=()):
        self.target = target if callable(target) else lambda: target
        self.faults = [[fault] if isinstance(fault, Fault) else fault for fault in faults]
        self.lock = threading.Lock()
        self.pairs, self.connections, self.hits = set(), 0, 0
        self.passed = {"up": 0, "down": 0}
        self.refuse = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/ws"

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            faults = self.faults[self.connections] if self.connections < len(self.faults) else []
            self.connections += 1
            if self.refuse:
                client.close()
                continue
            try:
                pair = Pair(self, client, {(fault.direction, fault.frame): fault.kind for fault in faults})
            except OSError:
                client.close()
                continue
            with self.lock:
                if pair.open:
                    self.pairs.add(pair)

    def cut(self):
        """Reset every connection that is open now."""
        for pair in list(self.pairs):
            pair.reset()

    def close(self):
        self.listener.close()
        self.cut()
