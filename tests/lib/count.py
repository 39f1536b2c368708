"""What a broker asks of libc, counted by a library that is loaded into it (tests/perf/count.c)."""
import mmap
import struct

from lib.broker import BUILD

NAMES = "allocations locks signals receives sends polls file_reads file_writes hints syncs".split()
LIBRARY = BUILD / "tests" / "perf" / "libeventbus-count.so"


class Counters:
    """counters = Counters(path); start_broker(env=counters.env); with counters.during() as cost: …; cost["sends"]"""

    def __init__(self, path):
        path.write_bytes(bytes(8 * len(NAMES)))
        self.env = {"LD_PRELOAD": str(LIBRARY), "EVENTBUS_COUNT_FILE": str(path)}
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 8 * len(NAMES))

    def now(self):
        return dict(zip(NAMES, struct.unpack(f"<{len(NAMES)}Q", self.map[:])))

    def since(self, before):
        now = self.now()
        return {name: now[name] - before[name] for name in NAMES}
