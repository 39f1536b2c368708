"""Message ids as docs/formats/log.md describes them, read from a log's file: a second implementation of made.c and saved_sqlite.c."""
import re
import sqlite3
import uuid

MASK = (1 << 64) - 1


def siphash13(key, data):
    def turn(x, bits):
        return (x << bits | x >> 64 - bits) & MASK

    def round():
        v[0] = (v[0] + v[1]) & MASK
        v[1] = turn(v[1], 13) ^ v[0]
        v[0] = turn(v[0], 32)
        v[2] = (v[2] + v[3]) & MASK
        v[3] = turn(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & MASK
        v[3] = turn(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & MASK
        v[1] = turn(v[1], 17) ^ v[2]
        v[2] = turn(v[2], 32)

    v = [key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D, key[0] ^ 0x6C7967656E657261, key[1] ^ 0x7465646279746573]
    data += b"\0" * (7 - len(data) % 8) + bytes([len(data) & 255])
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 8], "little")
        v[3] ^= word
        round()
        v[0] ^= word
    v[2] ^= 255
    for _ in range(3):
        round()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


class LogIds:
    def __init__(self, path):
        self.db = sqlite3.connect(path)
        text = self.db.execute("SELECT value FROM meta WHERE key = 'id_key'").fetchone()[0]
        secret, from_seq, era, before, self.epoch, _ = re.fullmatch(r"(\w{32}) (\d+) (\d+) (\d+) (\S+) (\w{8})", text).groups()
        self.key = (int(secret[:16], 16), int(secret[16:], 16))
        self.from_seq, self.era, self.before = int(from_seq), int(era), int(before)

    def made(self, seq, ts):
        era = (self.era if seq > self.from_seq else self.before) & 0xFFFF
        hash = siphash13(self.key, seq.to_bytes(8, "little") + (ts | era << 48).to_bytes(8, "little"))
        high = ts << 16 | 7 << 12 | seq >> 30 & 0xFFF
        return uuid.UUID(int=high << 64 | 2 << 62 | (seq & (1 << 30) - 1) << 32 | hash & 0xFFFFFFFF)

    def rows(self):
        return [(seq, ts, uuid.UUID(bytes=id)) for seq, ts, id in self.db.execute("SELECT seq, ts, id FROM log ORDER BY seq")]

    def saved_count(self):
        kind, _, _, ids, *_ = self.db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchone()[0].split()
        assert kind == "2"
        return int(ids)

    def part(self, number):
        return self.db.execute("SELECT entries FROM ids WHERE part = ?", (number,)).fetchone()[0][:-4]

    def saved(self, id):
        """(seq, ts) of an id in the snapshot, None: its filter or its bucket says no."""
        ids, filter = self.saved_count(), self.part(-3)
        hash = siphash13((self.key[0], self.key[1] ^ MASK), id.bytes)
        step = hash >> 32 | 1
        for i in range(4):
            bit = (hash + i * step) % (len(filter) * 8)
            if not filter[bit >> 3] >> (bit & 7) & 1:
                return None
        buckets = 1
        while buckets < ids // 512:
            buckets *= 2
        bucket = ((hash ^ hash >> 29) * 0x9E3779B97F4A7C15 & MASK) >> 20 & buckets - 1
        entries = self.part(-4 - bucket)
        for at in range(0, len(entries), 32):
            if entries[at : at + 16] == id.bytes:
                return int.from_bytes(entries[at + 16 : at + 24], "little"), int.from_bytes(entries[at + 24 : at + 32], "little")
        return None
