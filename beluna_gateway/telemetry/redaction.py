"""Takes secrets out of texts before anyone sees them."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

REDACTED = "<redacted>"
_KEPT = 256  # secrets remembered; rotated ones stay known until this many newer ones have come


class Redactor:
    """Knows every secret that was resolved lately, in each form in which it may turn up in a text."""

    def __init__(self) -> None:
        self._forms: OrderedDict[str, frozenset[str]] = OrderedDict()

    def learn(self, secret: str) -> None:
        """From now on `secret` is taken out of every text."""
        if not secret:
            return
        if secret not in self._forms:
            self._forms[secret] = frozenset(_forms(secret))
        self._forms.move_to_end(secret)
        if len(self._forms) > _KEPT:
            self._forms.popitem(last=False)

    def redact(self, text: str) -> str:
        """`text` with every known secret replaced. Cut a text to length after this, never before."""
        found = [place for forms in self._forms.values() for form in forms for place in _places(form, text)]
        if not found:
            return text
        pieces, done = [], 0
        # Places may overlap (one secret begins with another one): what any of them covers goes, as one.
        for start, end in sorted(found):
            if start >= done:
                pieces += [text[done:start], REDACTED]
            done = max(done, end)
        return "".join([*pieces, text[done:]])


def _forms(secret: str) -> Iterable[str]:
    in_base64 = base64.b64encode(secret.encode()).decode()
    yield secret
    yield in_base64
    yield in_base64.rstrip("=")
    yield repr(secret)[1:-1]
    for ascii_only in (True, False):
        yield json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
    for in_url in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield in_url
        yield _lower_escapes(in_url)


def _lower_escapes(in_url: str) -> str:
    head, *escaped = in_url.split("%")
    return "%".join([head, *(piece[:2].lower() + piece[2:] for piece in escaped)])


def _places(form: str, text: str) -> Iterable[tuple[int, int]]:
    start = text.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = text.find(form, start + 1)
