"""Code blocks of docs/*.md that say what they are: a comment `<!-- KIND: NAME -->` stands over each."""
import pathlib
import re

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"


class Block:
    def __init__(self, kind, name, text, shown):
        self.kind, self.name, self.text, self.shown = kind, name, text, shown


def blocks(document):
    """Marked blocks in order; `shown` is the plain block that follows at once (what the commands print), or None."""
    found = []
    pattern = r"<!-- (\w+)(?:: ([^ ]+))? -->\n```\w+\n(.*?)```\n(?:```\n(.*?)```\n)?"
    for kind, name, text, shown in re.findall(pattern, (DOCS / document).read_text(), re.S):
        found.append(Block(kind, name, text, shown or None))
    return found


def matches(shown, printed):
    """Equal, where … stands for anything within a line."""
    return re.fullmatch(".*".join(re.escape(part) for part in shown.strip().split("…")), printed.strip()) is not None
