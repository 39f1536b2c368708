"""Durable consumers for the fake broker, as PROTOCOL 7 has them but for time: what is out comes back when its connection ends,
when it is nacked, or when a test says so. A ledger of everything that was said."""


class FakeConsumers:
    """`handler` is FakeBroker's `answer`: durable consumers here, the rest as be_good does it.

    publish("work.x", "payload") -> seq puts an event into the log; every consumer gets every event."""

    def __init__(self, fake):
        self.fake = fake
        self.log = {}  # seq -> event
        self.known = {}  # name -> settings or None
        self.workers = {}  # (name, connection) -> [send, max_inflight, out]
        self.out = {}  # (name, seq) -> connection
        self.delivered = {}  # (name, seq) -> number of deliveries
        self.handled = {}  # (name, seq) -> "ack" or "term"
        self.waiting = {}  # name -> [seq], to be delivered
        self.said = []  # (verb, seq, delivery or None, result)
        self.must_exist = False
        self.refuse = None  # a code that answers are refused with, once
        self.epoch = "00000000-0000-4000-8000-000000000001"

    # ---- the log ----
    def publish(self, topic, payload, seq=None):
        seq = seq or max(self.log, default=0) + 1
        self.log[seq] = self.fake.event(seq, topic, payload)
        for name in self.known:
            self.waiting[name].append(seq)
        return seq

    def make(self, name, settings=None):
        self.known[name] = settings
        self.waiting[name] = sorted(self.log)

    async def pump(self):
        """Whoever has room is given what waits."""
        for (name, connection), worker in list(self.workers.items()):
            send, room, out = worker
            while self.waiting[name] and len(out) < room and not connection.closed:
                seq = self.waiting[name].pop(0)
                if (name, seq) in self.handled:
                    continue
                self.delivered[name, seq] = self.delivered.get((name, seq), 0) + 1
                self.out[name, seq] = connection
                out.add(seq)
                await send({**self.log[seq], "consumer": name, "delivery": self.delivered[name, seq]})

    def back(self, name, seq):
        """It is out no more, and will be delivered again."""
        connection = self.out.pop((name, seq), None)
        if connection and (name, connection) in self.workers:
            self.workers[name, connection][2].discard(seq)
        self.waiting[name].insert(0, seq)

    def detach(self, name, connection):
        worker = self.workers.pop((name, connection), None)
        for seq in sorted(worker[2] if worker else (), reverse=True):
            self.back(name, seq)

    # ---- requests ----
    def judge(self, verb, name, seq, delivery):
        current, connection = self.delivered.get((name, seq)), self.out.get((name, seq))
        if current is None:
            return "unknown"
        if (name, seq) in self.handled:
            return "ok" if verb == "ack" else "late"
        if verb != "ack" and (connection is None or (delivery or current) != current):
            return "late"
        if verb == "in_progress":
            return "ok"
        if verb == "nack":
            self.back(name, seq)
            return "ok"
        self.handled[name, seq] = verb
        if connection is not None:
            del self.out[name, seq]
            if (name, connection) in self.workers:
                self.workers[name, connection][2].discard(seq)
        return "ok"

    async def consume(self, request, send, connection):
        name, settings = request["consumer"], request.get("settings")
        if name not in self.known and (self.must_exist or settings is None):
            return await send({"type": "error", "id": request["id"], "code": "not_found", "message": f'no consumer "{name}"'})
        if name in self.known and settings is not None and self.known[name] not in (None, settings):
            return await send({"type": "error", "id": request["id"], "code": "conflict", "message": "other settings"})
        if name not in self.known:
            self.make(name, settings)
        await send({"type": "ok", "id": request["id"], "epoch": self.epoch})
        self.workers[name, connection] = [send, request.get("max_inflight", 256), set()]
        await self.pump()

    async def answers(self, request, send):
        if self.refuse and "id" in request:
            code, self.refuse = self.refuse, None
            return await send({"type": "error", "id": request["id"], "code": code, "message": "because"})
        verb, name = request["type"], request["consumer"]
        results = []
        for seq in request.get("seqs") or [request["seq"]]:
            results.append({"seq": seq, "result": self.judge(verb, name, seq, request.get("delivery"))})
            self.said.append((verb, seq, request.get("delivery"), results[-1]["result"]))
        if "id" in request:
            await send({"type": "ok", "id": request["id"], "results": results})
        await self.pump()

    async def handler(self, request, send, connection):
        for name, other in [key for key in self.workers if key[1].closed]:
            self.detach(name, other)
        if request["type"] == "consume":
            await self.consume(request, send, connection)
        elif request["type"] in ("ack", "nack", "term", "in_progress") and "consumer" in request:
            await self.answers(request, send)
        elif request["type"] == "release":
            self.detach(request["consumer"], connection)
            await self.pump()
        else:
            await self.fake.be_good(request, send, connection)

    # ---- what a test does ----
    def run(self, coroutine):
        """On the broker's own thread."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self.fake.loop).result(20)

    def add(self, count, topic="work.x"):
        async def go():
            seqs = [self.publish(topic, str(n)) for n in range(count)]
            await self.pump()
            return seqs

        return self.run(go())

    def again(self, name, seq):
        """ack_wait is over: deliver it again."""

        async def go():
            self.back(name, seq)
            await self.pump()

        return self.run(go())

    def say(self, message):
        async def go():
            for (name, connection), worker in list(self.workers.items()):
                await worker[0](message)

        return self.run(go())

    def cut(self):
        async def go():
            for name, connection in list(self.workers):
                connection.transport.abort()
                self.detach(name, connection)

        return self.run(go())
