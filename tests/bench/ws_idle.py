#!/usr/bin/env python3
"""What an idle WebSocket costs the broker in resident memory, and where: tests/bench/ws_idle.py [CONNECTIONS] [BROKER OPTIONS]

The figures of docs/decisions/0003-connection-threads.md. EVENTBUS_BUILD names the build directory.
"""
import collections
import pathlib
import re
import resource
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from lib.broker import Broker, wait_for  # noqa: E402
from lib.ws import WebSocket  # noqa: E402


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", open(f"/proc/{pid}/status").read()).group(1)) * 1024


def mappings(pid):
    """Resident bytes by size of the mapping: stacks, libmicrohttpd's pools and malloc's arenas have each their own."""
    sizes = collections.Counter()
    for line in open(f"/proc/{pid}/smaps"):
        range_ = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if range_:
            start, end = (int(x, 16) for x in range_.groups())
        elif line.startswith("Rss:"):
            sizes[f"{(end - start) // 1024} KiB" if end - start < 1 << 20 else "1 MiB and more"] += int(line.split()[1]) * 1024
    return sizes


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    broker = Broker(["--storage", "memory", *sys.argv[2:]]).start()
    try:
        broker.stats()
        empty, mapped = resident(broker.pid), mappings(broker.pid)
        clients = [WebSocket(broker.port) for _ in range(count)]
        wait_for(lambda: broker.stats()["connections"] == count, what="all connections")
        print(f"{count} connections that have sent nothing: {(resident(broker.pid) - empty) / count:.0f} bytes each")
        grown = mappings(broker.pid)
        grown.subtract(mapped)
        for size, bytes_ in grown.most_common(4):
            print(f"    in mappings of {size}: {bytes_ / count:.0f}")
        for client in clients:
            client.subscribe("t")
        print(f"each with a subscription, just used: {(resident(broker.pid) - empty) / count:.0f} bytes each")
    finally:
        broker.finish()


main()
