"""Takes secrets out of texts before anyone sees them."""

from __future__ import annotations

import base64
import re
import string
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import product
from urllib.parse import quote, quote_plus

REDACTED = "<redacted>"

MAX_SECRETS = 256
"""Secrets remembered. A rotated one stays known until this many newer ones have been learnt."""

MIN_ENCODED_BYTES = 4
"""Shorter secrets are not looked for in hexadecimal and inside base64: what that finds would mostly be chance."""

_BASE64 = string.ascii_letters + string.digits + "+/-_"
MAX_TOKEN = 4096
"""How far around an encoded secret the end of its base64 text is looked for, in characters."""

# One or more backslashes, and what they escape: a UTF-16 code unit or two, or a character. JSON in JSON writes several.
_ESCAPE = re.compile(
    r"\\++(?:u([dD][89abAB][0-9a-fA-F]{2})\\++u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.)|$)", re.DOTALL
)
_UNESCAPINGS = 3
"""How often a text is unescaped, where that makes new escapes (`\\u005cu0041`)."""

_LONGEST_ESCAPE = len(r"\\ud83d\\ude00")
"""Of one character, in JSON in JSON."""


class Redactor:
    """Knows the secrets that were resolved lately, in each form in which they may turn up in a text."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[frozenset[str], frozenset[str], frozenset[str]]] = OrderedDict()
        self._forms: tuple[str, ...] = ()
        self._unescaped_forms: tuple[str, ...] = ()
        self._inside_base64: tuple[str, ...] = ()
        self._shortest = 0
        self.longest_form = 0
        """Characters of the longest form of a known secret."""

    def learn(self, secret: str) -> None:
        """From now on `secret` is taken out of every text."""
        if not secret:
            return
        if secret in self._known:
            self._known.move_to_end(secret)
            return
        forms = frozenset(_forms(secret))
        unescaped = frozenset(_unescaped(form)[0] if "\\" in form else form for form in forms) - {""}
        self._known[secret] = forms, unescaped, frozenset(_inside_base64(secret))
        if len(self._known) > MAX_SECRETS:
            self._known.popitem(last=False)
        self._forms, self._unescaped_forms, self._inside_base64 = (
            tuple(frozenset().union(*kind)) for kind in zip(*self._known.values(), strict=True)
        )
        lengths = [len(form) for form in (*self._forms, *self._unescaped_forms, *self._inside_base64)]
        self._shortest = min(lengths)
        self.longest_form = max(*lengths, _LONGEST_ESCAPE * max(map(len, self._known)))

    def redact(self, text: str) -> str:
        """`text` with every known secret replaced. Cut a text to length after this, never before."""
        if len(text) < self._shortest:
            return text
        found = [place for form in self._forms for place in _places(form, text)]
        found += [_token(place, text) for form in self._inside_base64 for place in _places(form, text)]
        if "\\" in text:
            unescaped, at = _unescaped(text)
            for form in self._unescaped_forms:
                found += [(at[start], at[end]) for start, end in _places(form, unescaped)]
        if not found:
            return text
        pieces, done = [], 0
        # Places may overlap (one secret begins with another one): their union is replaced once.
        for start, end in sorted(found):
            if start >= done:
                pieces += [text[done:start], REDACTED]
            done = max(done, end)
        return "".join([*pieces, text[done:]])


def _forms(secret: str) -> Iterator[str]:
    data = secret.encode()
    yield secret
    yield repr(secret)[1:-1]
    yield from _in_html(secret)
    for in_url in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield in_url
        yield _lower_escapes(in_url)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        in_base64 = encode(data).decode()
        yield in_base64
        yield in_base64.rstrip("=")
    if len(data) >= MIN_ENCODED_BYTES:
        yield data.hex()
        yield data.hex().upper()


_ALWAYS_IN_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""As in `html.escape`, whose module brings a table of all entities, 0.4 MB."""

_IN_HTML = {
    '"': ('"', "&quot;", "&#34;"),
    "'": ("'", "&#x27;", "&#39;", "&apos;"),
    "/": ("/", "&#x2F;", "&#47;"),
    "=": ("=", "&#x3D;", "&#61;"),
}
"""How templates write the characters that not all of them escape; each template writes one of them in one way."""


def _in_html(secret: str) -> Iterator[str]:
    escaped = secret.translate(_ALWAYS_IN_HTML)
    present = [character for character in _IN_HTML if character in secret]
    for way in product(*map(_IN_HTML.__getitem__, present)):
        yield escaped.translate({ord(character): form for character, form in zip(present, way, strict=True)})


def _unescaped(text: str) -> tuple[str, list[int]]:
    """`text` without the escapes of JSON, however often they were applied, and where each character stood in it.

    The same comes of a text and of each way to write it in JSON, where any character may be escaped: so no backslash is
    left of either. A last entry has the end of `text`.
    """
    at = list(range(len(text) + 1))
    for _ in range(_UNESCAPINGS):
        pieces: list[str] = []
        places: list[int] = []
        done = 0
        for escape in _ESCAPE.finditer(text):
            start, end = escape.span()
            pieces += [text[done:start], _meant(escape)]
            places += at[done : start + 1]
            done = end
        unescaped = "".join([*pieces, text[done:]])
        if unescaped == text:
            break
        text, at = unescaped, places + at[done:]
    return text, at


def _meant(escape: re.Match[str]) -> str:
    high, low, unit, character = escape.groups()
    if high is not None:
        return chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
    return character or ("" if unit is None else chr(int(unit, 16)))


def _inside_base64(secret: str) -> Iterable[str]:
    """What base64 makes of `secret` inside a longer text (``Bearer KEY``, ``user:KEY``), whatever stands around it.

    Base64 writes 3 bytes as 4 characters of 6 bits, so there are three ways, by the offset of the secret. Characters
    at its edges that also hold bits of a neighbour are left out.
    """
    data = secret.encode()
    if len(data) < MIN_ENCODED_BYTES:
        return
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(bytes(offset) + data).decode()
            yield encoded[(offset * 8 + 5) // 6 : (offset + len(data)) * 8 // 6]


def _lower_escapes(in_url: str) -> str:
    head, *escaped = in_url.split("%")
    return "%".join([head, *(piece[:2].lower() + piece[2:] for piece in escaped)])


def _places(form: str, text: str) -> Iterator[tuple[int, int]]:
    start = text.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = text.find(form, start + 1)


def _token(place: tuple[int, int], text: str) -> tuple[int, int]:
    """The whole base64 text around `place`."""
    start, end = place
    before, after = text[max(0, start - MAX_TOKEN) : start], text[end : end + MAX_TOKEN]
    beyond = after.lstrip(_BASE64).lstrip("=")
    return start - (len(before) - len(before.rstrip(_BASE64))), end + len(after) - len(beyond)
