"""The picture and the list of files of docs/architecture.md, written from the table of `layers.py` and the docstrings.

`python -m tests.architecture_page` writes them anew; a test fails where they are old.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from .layers import MODULES, ROOMS, levels

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
_SECTION = re.compile(r"<!-- (picture|files) -->\n.*?<!-- end -->", re.DOTALL)
_LEFT_OUT = {"__init__", "__main__", "local_model", "version"}
"""Rooms that would only clutter the picture: names for what stands elsewhere."""


def rewritten(text: str) -> str:
    """`text` with the picture and the list as the code has them."""
    made = {"picture": _picture, "files": _files}
    return _SECTION.sub(lambda found: f"<!-- {found[1]} -->\n{made[found[1]]()}<!-- end -->", text)


def _picture() -> str:
    """A row a level, the highest first; behind each room what it imports, without what those import anyway."""
    lines = []
    for row in reversed(list(levels())):
        for name in (name for name in row if name not in _LEFT_OUT):
            below = sorted(ROOMS[name] - _LEFT_OUT - set().union(*(_all_below(other) for other in ROOMS[name])))
            lines.append(f"{_shown(name):20}{'──► ' if below else ''}{'  '.join(map(_shown, below))}".rstrip())
        if lines and lines[-1]:
            lines.append("")
    return "```text\n" + "\n".join(lines).strip() + "\n```\n"


def _all_below(name: str) -> set[str]:
    return set(ROOMS[name]).union(*(_all_below(other) for other in ROOMS[name]))


def _shown(name: str) -> str:
    return name.replace(".", "/")


def _files() -> str:
    """A table a folder: each file and the first sentence of its docstring."""
    return "".join(f"\n**{title}**\n\n| file | what it is |\n|---|---|\n{rows}\n" for title, rows in _folders()) + "\n"


def _folders() -> Iterator[tuple[str, str]]:
    rows: dict[str, list[str]] = {}
    for name in sorted(MODULES):
        if purpose := first_sentence(name):
            folder = "/".join(name.split(".")[:-1])
            rows.setdefault(folder, []).append(f"| `{name.replace('.', '/')}.py` | {purpose} |")
    for folder in sorted(rows):
        yield f"`beluna_gateway/{folder}{'/' if folder else ''}`", "\n".join(rows[folder])


def first_sentence(name: str) -> str:
    """The first sentence of a module's docstring, on one line; empty for a module that is empty."""
    text = " ".join((ast.get_docstring(MODULES[name]) or "").partition("\n\n")[0].split())
    sentence = re.match(r".*?[.](?=\s+[A-Z`]|$)", text)
    return (sentence[0] if sentence else text).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
