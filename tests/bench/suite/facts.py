"""The machine and the versions behind a result; nothing that names the machine."""
import os
import pathlib
import platform
import re
import shutil
import subprocess

PACKAGES = ["nats-server", "redis-server", "nginx-light", "libnginx-mod-nchan", "mosquitto", "wrk", "libmicrohttpd12", "libsqlite3-0",
            "libjson-c5", "libc6", "gcc"]


def said(argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def filesystem(folder):
    """Kind of the filesystem that holds the folder: of the longest mount point above it."""
    best, kind = "", "unknown"
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        if (str(folder) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, found
    return kind


def gather(folder, source):
    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    versions = {}
    for line in said(["dpkg-query", "-W", "-f=${Package} ${Version}\n", *PACKAGES]).splitlines():
        name, _, version = line.partition(" ")
        if version:
            versions[name] = version
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.group(1)) / (1 << 20), 1) if memory else None,
        "kernel": platform.release().split("-")[0],
        "filesystem": filesystem(folder),
        "free_gib": shutil.disk_usage(folder).free >> 30,
        "load_before": round(os.getloadavg()[0], 2),
        "commit": said(["git", "-C", str(source), "rev-parse", "--short", "HEAD"]),
        "changed": bool(said(["git", "-C", str(source), "status", "--porcelain", "--untracked-files=no"])),
        "versions": versions,
    }
