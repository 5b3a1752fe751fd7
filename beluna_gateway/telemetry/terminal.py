"""Text for a terminal: from outside with control characters as escapes, so that they control nothing; counts."""

from __future__ import annotations

import re

# C0 and C1 controls, DEL; marks that reorder or break a line; halves of a surrogate pair, which have no UTF-8 form.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    r"""`text` with every control character but those of `keep` as ``\x1b``, ``\n`` or ``\u202e``."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


def printable_json(text: str) -> str:
    r"""JSON `text` with the control characters that JSON allows in a string as ``\u009b``: the same value."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def counted(count: int, noun: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
