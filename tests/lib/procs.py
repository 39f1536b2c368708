"""What /proc says about a broker: memory, processor time, open files, threads."""
import os


def status_kib(broker, field):
    with open(f"/proc/{broker.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def rss_mib(broker):
    return status_kib(broker, "VmRSS") / 1024


def cpu_seconds(broker):
    with open(f"/proc/{broker.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(broker):
    """What each descriptor is, as a list of link targets."""
    found = []
    folder = f"/proc/{broker.pid}/fd"
    for name in os.listdir(folder):
        try:
            found.append(os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:
            pass
    return found


def is_sanitized(broker):
    """Memory figures of a sanitizer's build say nothing."""
    with open(f"/proc/{broker.pid}/maps") as maps:
        return any(name in line for line in maps for name in ("libasan", "libtsan"))
