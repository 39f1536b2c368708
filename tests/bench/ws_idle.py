#!/usr/bin/env python3
"""What an idle WebSocket costs in resident memory, ours and nchan's in one run: tests/bench/ws_idle.py [CONNECTIONS] [BROKER OPTIONS]

The figures of docs/decisions/0003-connection-threads.md. EVENTBUS_BUILD names the build directory. nchan (Debian: nginx and
libnginx-mod-nchan) is left out when it is not installed. Memory is the processes' own (Rss); what the kernel keeps for a
connection (its socket; with us a thread) is in no row.
"""
import collections
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from lib.broker import Broker, wait_for  # noqa: E402
from lib.ws import WebSocket, handshake  # noqa: E402

REST = 15  # seconds without a message, after which a connection has freed what reading needs

NGINX = """
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location = /sub {{ nchan_subscriber websocket; nchan_channel_id t; }}
        location = /status {{ nchan_stub_status; }}
    }}
}}
"""


def resident(pid):
    return int(re.search(r"Rss:\s+(\d+) kB", open(f"/proc/{pid}/smaps_rollup").read()).group(1)) * 1024


def mappings(pid):
    """Resident bytes by size of the mapping: stacks and malloc's arenas have each their own."""
    sizes = collections.Counter()
    for line in open(f"/proc/{pid}/smaps"):
        range_ = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if range_:
            start, end = (int(x, 16) for x in range_.groups())
        elif line.startswith("Rss:"):
            sizes[f"{(end - start) // 1024} KiB" if end - start < 1 << 20 else "1 MiB and more"] += int(line.split()[1]) * 1024
    return sizes


def measure_ours(count, options):
    broker = Broker(["--storage", "memory", "--max-connections", count, *options]).start()
    try:
        broker.stats()
        empty, mapped, maps = resident(broker.pid), mappings(broker.pid), len(open(f"/proc/{broker.pid}/maps").readlines())
        print(f"eventbusd: {empty / 1e6:.1f} MB resident without connections")
        start = time.monotonic()
        clients = [WebSocket(broker.port) for _ in range(count)]
        wait_for(lambda: broker.stats()["connections"] == count, what="all connections")
        print(f"    {count} connections in {time.monotonic() - start:.1f} s (this client is most of that)")
        print(f"    each that has sent nothing: {(resident(broker.pid) - empty) / count:.0f} bytes")
        grown = mappings(broker.pid)
        grown.subtract(mapped)
        for size, bytes_ in grown.most_common(3):
            print(f"        in mappings of {size}: {bytes_ / count:.0f}")
        print(f"        memory maps: {(len(open(f'/proc/{broker.pid}/maps').readlines()) - maps) / count:.2f}")
        for client in clients:
            client.subscribe("t")
        print(f"    each with a subscription, just made: {(resident(broker.pid) - empty) / count:.0f} bytes")
        time.sleep(REST)
        subscribed = (resident(broker.pid) - empty) / count
        print(f"    each with a subscription, after {REST} s without a message: {subscribed:.0f} bytes")
        grown = mappings(broker.pid)
        grown.subtract(mapped)
        for size, bytes_ in grown.most_common(3):
            print(f"        in mappings of {size}: {bytes_ / count:.0f}")
        return subscribed
    finally:
        broker.finish()


def measure_nchan(count):
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        config = pathlib.Path(folder, "nginx.conf")
        config.write_text(NGINX.format(folder=folder, port=port, connections=count + 100, files=count + 200))
        nginx = subprocess.Popen(["nginx", "-c", str(config), "-p", folder], stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: answers(port), what="nginx")
            empty = resident(nginx.pid)
            clients = [handshake(port, path="/sub")[0] for _ in range(count)]
            each = (resident(nginx.pid) - empty) / count
            print(f"nchan: each, which is subscribed: {each:.0f} bytes")
            for client in clients:
                client.close()
            return each
        finally:
            nginx.terminate()
            nginx.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ours = measure_ours(count, sys.argv[2:])
    if shutil.which("nginx") and os.path.exists("/usr/lib/nginx/modules/ngx_nchan_module.so"):
        theirs = measure_nchan(count)
        print(f"ours to nchan's, both subscribed and at rest: {ours / theirs:.2f}")


main()
