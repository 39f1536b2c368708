"""A broker under callgrind: instructions between two points of a test, which do not change with the machine's load."""
import re
import subprocess


class Instructions:
    """Instructions(tmp_path).wrapper goes in front of the broker's command; taken(broker) is what it ran since the last call."""

    def __init__(self, folder):
        self.folder, self.dumps = folder, 0
        self.wrapper = [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind", f"--vgdb-prefix={folder}/vgdb",
        ]  # fmt: skip

    def taken(self, broker):
        subprocess.run(["vgdb", f"--vgdb-prefix={self.folder}/vgdb", f"--pid={broker.pid}", "dump"], check=True, capture_output=True, timeout=60)
        self.dumps += 1
        text = (self.folder / f"callgrind.{self.dumps}").read_text()
        return int(re.search(r"^totals: (\d+)", text, re.M).group(1))
