"""A broker that does what it is told, also what a real one never would: for the client's tests."""
import asyncio
import http
import json
import threading

import websockets

EPOCH = "00000000-0000-4000-8000-000000000001"


class FakeBroker:
    """`answer(request, send, connection)` is a coroutine called for each request; without it publishes and subscribes are ok.

    send(dict or str) sends; connection is the websockets connection, to close or abort. `status` refuses the upgrade."""

    def __init__(self, answer=None, status=None, silent=False, subprotocol="eventbus.json.v1", on_open=None):
        self.answer, self.status, self.silent, self.subprotocol, self.on_open = answer or self.be_good, status, silent, subprotocol, on_open
        self.requests, self.connections, self.upgrades, self.seq, self.ids = [], 0, 0, 0, {}
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.ready.wait(20)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/ws"

    async def be_good(self, request, send, connection):
        kind = request["type"]
        if kind == "publish":
            await send(self.stored(request))
        elif kind == "publish_batch":
            results = [self.stored({"id": None, "data": message}) for message in request["messages"]]
            await send({"type": "ok", "id": request["id"], "results": results})
        elif kind == "subscribe":
            await send({"type": "ok", "id": request["id"], "last_seq": self.seq, "epoch": EPOCH})
            if request.get("starting_seq") is not None:
                await send({"type": "live", "pattern": request["pattern"], "seq": self.seq})
        elif "id" in request:
            await send({"type": "ok", "id": request["id"]})

    def stored(self, request):
        message_id = request["data"]["message_id"]
        duplicate = message_id in self.ids
        if not duplicate:
            self.seq += 1
            self.ids[message_id] = self.seq
        return {"type": "ok", "id": request["id"], "seq": self.ids[message_id], "message_id": message_id, "duplicate": duplicate}

    @staticmethod
    def event(seq, topic="a", payload="x", **more):
        return {"type": "event", "seq": seq, "message_id": f"00000000-0000-7000-8000-{seq:012}", "topic": topic, "payload": payload,
                "metadata": {"timestamp": 1, "content_type": "text/plain"}, **more}  # fmt: skip

    async def _serve(self, connection):
        self.connections += 1

        async def send(message):
            await connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

        try:
            if self.on_open:
                await self.on_open(send, connection)
            async for text in connection:
                request = json.loads(text)
                self.requests.append(request)
                await self.answer(request, send, connection)
        except websockets.ConnectionClosed:
            pass

    async def _upgrade(self, path, headers):
        self.upgrades += 1
        self.headers = headers
        if self.silent:
            await asyncio.sleep(3600)
        status = self.status(self.upgrades) if callable(self.status) else self.status
        if status:
            return http.HTTPStatus(status), [("Content-Type", "text/plain")], b"no\n"
        return None

    def _run(self):
        asyncio.set_event_loop(self.loop)

        async def start():
            server = await websockets.serve(
                self._serve, "127.0.0.1", 0, subprotocols=[self.subprotocol] if self.subprotocol else None,
                process_request=self._upgrade, compression=None, max_size=1 << 20, ping_interval=None, close_timeout=1,
            )  # fmt: skip
            self.port = server.sockets[0].getsockname()[1]
            self.ready.set()

        self.loop.run_until_complete(start())
        self.loop.run_forever()

    def finish(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
