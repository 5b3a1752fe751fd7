"""Decompresses error bodies: some proxies compress theirs although `identity` was asked for (amendment B9)."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Sequence


def decompressed(body: bytes, codings: Sequence[str], limit: int) -> bytes:
    """The text of a body that may have been cut off, or a sentence in its place where its coding is not known.

    Args:
        body: As it was received.
        codings: The members of `Content-Encoding`, in lower case and without `identity`.
        limit: The most bytes of text; the rest is left out.
    """
    if not codings or _is_text(body):  # with a wrong header, as behind a proxy that has decompressed it
        return body[:limit]
    if len(codings) == 1 and codings[0] in _WINDOW_BITS:
        for bits in _WINDOW_BITS[codings[0]]:
            try:
                return zlib.decompressobj(bits).decompress(body, limit)
            except zlib.error:
                continue
    return f"(its body cannot be read: Content-Encoding {', '.join(codings)})".encode()


def _is_text(body: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body)  # its last character may be cut off
    except UnicodeDecodeError:
        return False
    return bool(body) and _CONTROLS.search(body) is None


_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_WINDOW_BITS = {
    "gzip": (16 + zlib.MAX_WBITS,),
    "x-gzip": (16 + zlib.MAX_WBITS,),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),  # with zlib's header, as RFC 9110 has it, or without, as some send it
}
