"""Rewrite what stands between `<!-- NAME -->` and `<!-- end -->` in a document; the prose stays."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def fill(path: Path, texts: Mapping[str, str]) -> None:
    """Put each text between the markers of its name; names that are not given stay as they are."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n\n{texts[name]}\n\n<!-- end -->" if name in texts else match[0]

    old = path.read_text("utf-8")
    path.write_text(re.sub(r"<!-- (\S+) -->\n.*?<!-- end -->", replaced, old, flags=re.S), "utf-8")


def printed(table: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, its first row as the head."""
    head, *body = table
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])
