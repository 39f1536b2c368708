"""Write the files given as C arrays, so that the pages are inside the binary: embed.py OUT FILE..."""
import pathlib
import re
import sys

out, files = pathlib.Path(sys.argv[1]), [pathlib.Path(name) for name in sys.argv[2:]]
lines = ["/* Made by broker/net/pages/embed.py. */"]
for file in files:
    data = file.read_bytes()
    name = re.sub(r"\W", "_", file.name)
    lines.append(f"static const unsigned char page_{name}[{len(data)}] = {{")
    lines += ["    " + "".join(f"{byte}," for byte in data[at : at + 24]) for at in range(0, len(data), 24)]
    lines.append("};")
out.write_text("\n".join(lines) + "\n")
