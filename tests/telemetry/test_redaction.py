"""`Redactor`: no secret is left in a text, in whatever form it turned up."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from beluna_gateway.telemetry.redaction import REDACTED, Redactor

secrets = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=12).filter(str.strip)


def knowing(*known: str) -> Redactor:
    redactor = Redactor()
    for secret in known:
        redactor.learn(secret)
    return redactor


def test_a_text_without_secrets_stays_itself():
    """Nothing is touched where nothing is found."""
    text = "the model said no"

    assert knowing("sk-1").redact(text) is text
    assert Redactor().redact(text) is text


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda secret: quote(secret, safe=""),
    "percent, slashes kept": quote,
    "percent, lower case": lambda secret: re.sub("%..", lambda found: found[0].lower(), quote(secret, safe="")),
    "form": quote_plus,
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 without padding": lambda secret: base64.b64encode(secret.encode()).decode().rstrip("="),
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json in UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "repr": lambda secret: repr(secret)[1:-1],
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "json with escaped slashes": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "json in json": lambda secret: json.dumps(json.dumps(secret)[1:-1])[1:-1],
    "repr in json": lambda secret: json.dumps(repr(secret)[1:-1])[1:-1],
    "html in json": lambda secret: json.dumps(html.escape(secret), ensure_ascii=False)[1:-1],
    "html": html.escape,
    "html, quotes kept": lambda secret: html.escape(secret, quote=False),
    "html of Mustache": lambda secret: (
        html.escape(secret).replace("&#x27;", "&#39;").replace("/", "&#x2F;").replace("=", "&#x3D;")
    ),
    "html of XML": lambda secret: html.escape(secret).replace("&#x27;", "&apos;"),
    "html, decimal": lambda secret: html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
}

ENCODED: dict[str, Callable[[str], str]] = {
    "base64 of Bearer": lambda secret: base64.b64encode(f"Bearer {secret}".encode()).decode(),
    "base64 of x:KEY": lambda secret: base64.b64encode(f"x:{secret}".encode()).decode(),
    "base64 of user:KEY": lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
    "base64 of KEY:": lambda secret: base64.b64encode(f"{secret}:".encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(f"a?>{secret}?>".encode()).decode().rstrip("="),
    "hex": lambda secret: secret.encode().hex(),
    "HEX": lambda secret: secret.encode().hex().upper(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_found(form):
    """A secret is found as it is, escaped for a URL, for JSON or by `repr`, and in base64."""
    secret = "sk/+ \"é'\\=1"

    assert knowing(secret).redact(f"key={form(secret)}.") == f"key={REDACTED}."


@given(secrets, st.text(), st.text(), st.sampled_from(list(FORMS.values())))
def test_no_secret_survives(secret, before, after, form):
    """Wherever it stands, what follows and precedes it stays and the secret goes."""
    text = knowing(secret).redact(before + form(secret) + after)

    assert REDACTED in text
    if secret not in REDACTED:
        assert secret not in text.replace(REDACTED, "\0")


def escapes(character: str) -> list[str]:
    """Each way in which JSON may write it in a string, RFC 8259, section 7."""
    units = character.encode("utf-16-be").hex()
    unit_by_unit = "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
    short = [f"\\{character}"] if character in '"\\/' else []
    return [*short, unit_by_unit, unit_by_unit.upper().replace("U", "u"), *([] if character in '"\\' else [character])]


@given(st.text("abu09/=\\\"'<é😀", min_size=1, max_size=8), st.data())
def test_no_escapes_of_json_hide_a_secret(secret, data):
    """Whichever of its characters are escaped, and however: also in JSON in JSON.

    But a secret of backslashes alone is found as it is only: without its escapes nothing would be left of it.
    """
    assume(secret.strip("\\"))
    text = "".join(data.draw(st.sampled_from(escapes(character))) for character in secret)
    if data.draw(st.booleans()):
        text = json.dumps(text)[1:-1].replace("/", data.draw(st.sampled_from(["/", "\\/"])))
    redacted = knowing(secret).redact(f'{{"key":"{text}","x":"y"}}')

    assert REDACTED in redacted
    assert text not in redacted.replace(REDACTED, "\0")


def test_several_escapes_in_one_text():
    """As PHP's `JSON_HEX_TAG` and Gson write a key, and a log that quotes their answer."""
    redactor = knowing('sk/a=b<c/😀"d')
    nested = r"sk\\\/a\\u003db<c\\\/\\ud83d\\ude00\\\"d"

    for text in (r"sk\/a\u003db\u003Cc/\ud83d\uDE00\"d", nested, r"sk/a=b\u005cu003cc/😀\u0022d"):
        assert redactor.redact(f'"{text}", "x"') == f'"{REDACTED}", "x"'


@pytest.mark.parametrize("piece", ["\\", r"\/", r"\u005c", r"\u0041", "a\\"])
def test_many_escapes_cost_time_in_proportion(piece):
    """A hostile answer is read once per level of escapes: 0.3 s here, where a square of its length would be minutes."""
    text, started = piece * 80_000, time.process_time()

    assert knowing("sk-123456").redact(text) == text
    assert time.process_time() - started < 2


@pytest.mark.parametrize("form", ENCODED.values(), ids=ENCODED)
def test_encoded_forms_are_found_whole(form):
    """A secret in hexadecimal, or in base64 together with other text, goes with everything of that base64 text."""
    secret = 'sk/+ "é\\=1'

    assert knowing(secret).redact(f"Basic {form(secret)}, x") == f"Basic {REDACTED}, x"


@given(st.binary(max_size=8), secrets.filter(lambda secret: len(secret.encode()) >= 4), st.binary(max_size=8))
def test_no_neighbour_hides_a_secret_in_base64(before, secret, after):
    """Whatever stands before and after it in the text that was encoded."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + secret.encode() + after).decode()

        assert knowing(secret).redact(f"<{text}>") == f"<{REDACTED}>"


def test_short_secrets_are_not_looked_for_inside_base64():
    """What three bytes look like there is found everywhere by chance."""
    assert knowing("abc").redact("id " + b"abc".hex()) == "id " + b"abc".hex()
    assert knowing("abcd").redact("id " + b"abcd".hex()) == f"id {REDACTED}"


def test_base64_of_a_short_secret_is_found_without_its_padding():
    """Too short to be looked for inside other base64, but not for itself."""
    assert knowing("k1").redact("azE= azE. azE") == "<redacted> <redacted>. <redacted>"


def test_html_with_quotes_kept_or_in_decimal():
    """Each way of escaping what a secret may hold: an ampersand, and quotes of either kind."""
    for form in ("a&amp;b\"c'd", "a&amp;b&#34;c&#39;d", "a&amp;b&quot;c&#x27;d"):
        assert knowing("a&b\"c'd").redact(f"<{form}>") == "<<redacted>>"


def test_a_secret_inside_another_one():
    """What follows the inner one still belongs to the outer one."""
    assert knowing("sk-abcdefgh", "cd").redact("a sk-abcdefgh b") == f"a {REDACTED} b"


def test_the_longest_form_is_known():
    """A text may be cut that far behind the last character that is kept, and then redacted."""
    redactor = knowing("key&<1234567890>")

    assert redactor.longest_form >= max(len(form("key&<1234567890>")) for form in FORMS.values())


def test_the_longer_of_two_secrets_goes_as_a_whole():
    """A secret that begins with, ends with or overlaps another one leaves no rest of itself."""
    for known in (("sk-1", "sk-12345"), ("sk-12345", "sk-1"), ("sk-12345", "345-end"), ("345-end", "sk-12345")):
        text = knowing(*known).redact("a sk-12345-end b")

        assert "345" not in text
        assert "end" not in text or "345-end" not in known


def test_our_own_word_is_not_redacted_again():
    """A secret that happens to stand in `<redacted>` does no harm to what was put in."""
    assert knowing("sk-1", "red").redact("sk-1 is red") == f"{REDACTED} is {REDACTED}"


def test_neighbours_and_repetitions():
    """Each place is replaced, also where one follows the other directly."""
    assert knowing("ab").redact("abab ab") == f"{REDACTED}{REDACTED} {REDACTED}"


def test_rotated_secrets_stay_known_and_memory_is_bounded():
    """Old secrets are still taken out, until many newer ones have come; one that is in use is never forgotten."""
    redactor = knowing("rotated", "in-use")
    for number in range(255):
        redactor.learn(f"other-{number}")
        redactor.learn("in-use")

    assert redactor.redact("in-use") == REDACTED
    assert redactor.redact("other-0") == REDACTED
    assert redactor.redact("rotated") == "rotated"


def test_an_empty_secret_is_no_secret():
    """Nothing to hide replaces nothing."""
    assert knowing("").redact("text") == "text"
