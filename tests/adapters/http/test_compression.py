"""Error bodies that are compressed although nobody asked for it."""

from __future__ import annotations

import gzip
import zlib

import pytest

from beluna_gateway.adapters.http.compression import decompressed

TEXT = b'{"error":{"message":"too many requests"}}' * 50
LIMIT = 64 * 1024


def _raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", _raw_deflate(TEXT)),
    ],
    ids=["gzip", "x-gzip", "deflate", "raw-deflate"],
)
def test_the_text_is_what_it_was(coding: str, body: bytes):
    """And of a body that was cut off, its beginning."""
    assert decompressed(body, [coding], LIMIT) == TEXT
    beginning = decompressed(body[:-12], [coding], LIMIT)
    assert beginning
    assert TEXT.startswith(beginning)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_cut(coding: str):
    """A small body never becomes more than the limit."""
    huge = b"\0" * 50_000_000
    body = gzip.compress(huge, 1) if coding == "gzip" else zlib.compress(huge, 1)

    assert decompressed(body, [coding], LIMIT) == b"\0" * LIMIT


def test_a_body_without_a_coding_is_itself():
    """Up to the limit."""
    assert decompressed(TEXT, [], LIMIT) == TEXT
    assert decompressed(TEXT, [], 10) == TEXT[:10]


@pytest.mark.parametrize(
    ("codings", "body"),
    [(["br"], b"\x1b\x00"), (["gzip", "br"], b""), (["gzip"], b"\x1f\xff"), (["deflate"], b"\xff\xff")],
)
def test_what_cannot_be_read_is_named(codings: list[str], body: bytes):
    """Another coding, several, or bytes that are not what their header says."""
    assert ", ".join(codings).encode() in decompressed(body, codings, LIMIT)


@pytest.mark.parametrize("codings", [["gzip"], ["deflate"], ["br"], ["gzip", "br"]])
@pytest.mark.parametrize("body", [TEXT, "too many\r\n\tré"[:-1].encode() + b"\xc3"])
def test_a_text_under_a_wrong_header_is_itself(codings: list[str], body: bytes):
    """Also where its last character is cut off."""
    assert decompressed(body, codings, LIMIT) == body
    assert decompressed(body, codings, 5) == body[:5]
