"""Takes secrets out of texts before anyone sees them."""

from __future__ import annotations

import base64
from collections import OrderedDict
from urllib.parse import quote, quote_plus

REDACTED = "<redacted>"
_KEPT = 256  # secrets remembered; rotated ones stay known until this many newer ones have come


class Redactor:
    """Knows every secret that was resolved lately, in each form in which it may turn up in a text."""

    def __init__(self) -> None:
        self._forms: OrderedDict[str, list[str]] = OrderedDict()

    def learn(self, secret: str) -> None:
        """From now on `secret` is taken out of every text."""
        if secret in self._forms:
            return
        in_base64 = base64.b64encode(secret.encode()).decode()
        forms = {
            secret,
            quote(secret, safe=""),
            quote_plus(secret),
            in_base64,
            in_base64.rstrip("="),
            repr(secret)[1:-1],
        }
        self._forms[secret] = sorted(forms, key=len, reverse=True)
        if len(self._forms) > _KEPT:
            self._forms.popitem(last=False)

    def redact(self, text: str) -> str:
        """`text` with every known secret replaced. Cut a text to length after this, never before."""
        for forms in self._forms.values():
            for form in forms:
                if form in text:
                    text = text.replace(form, REDACTED)
        return text
