"""Errors as providers write them: where one stands in a body or an event, what it says, and which words it has. No I/O.

What an error means for the client is `error_kinds.py`, when to come back `error_waits.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue
from pydantic_core import from_json

from ...canonical import immutable
from ...wire.strict_json import with_short_numbers
from .error_words import status_of_word
from .scalars import whole_number, word

_CODE_KEYS = ("code", "error_code", "errorCode", "type", "error_type", "errorType", "__type", "status")
_STATUS_KEYS = (
    *("status_code", "http_status_code", "status", "statusCode", "StatusCode", "http_code"),
    *("code", "error_code", "errorCode"),
)
_ERROR_WORDS = ("error_code", "errorCode", "error_type", "errorType", "__type")
_FAILURE_KEYS = (*_STATUS_KEYS, "error_type", "__type")
"""Beside a text, a code of failure in one of these makes an object an error."""
_TEXT_KEYS = (
    *("message", "msg", "detail", "details", "error_message", "error_msg", "status_msg", "errors", "error"),
    "errorMessage",  # AWS Lambda's, and of other servers in Java
    *("error_description", "description", "reason", "title"),  # OAuth's, RFC 9457's
)
_DEPTH = 4
"""Objects inside each other that are looked through for an error and its text."""
_ENTRIES = 20
"""Entries of an array of errors that are read."""


@immutable
class ProviderError:
    """An error as the provider wrote it."""

    code: str | None
    """Its code: a word where it has one, else a number as a string."""
    message: str | None
    detail: Mapping[str, JsonValue]
    """The error object."""
    status: int | None = None
    """The HTTP status that it names itself."""
    words: tuple[str, ...] = ()
    """Its code word and its type word, those that it has, in this order; `(code,)` where none are given."""


def find_error(value: JsonValue) -> ProviderError | None:
    """The error in a parsed event or body of an answer, None where it has none.

    An error is: `error` as an object or a string that says something (at the top, in the first choice, in an entry of
    an array), `errors`, `error_message`, `base_resp` with a `status_code` other than 0, an object of type `error`, and,
    in an object without content, `detail`, and `message`, `msg` or `details` beside a code.
    """
    if not isinstance(value, dict):
        entries = value[:_ENTRIES] if isinstance(value, list) else []
        found = (find_error(entry) for entry in entries if isinstance(entry, dict))
        return next((error for error in found if error is not None), None)
    choices = value.get("choices")
    first = choices[0] if choices and isinstance(choices, list) else None
    if isinstance(first, dict) and "error" in first and _says(first["error"]):
        return read_error(first["error"])
    if value.get("type") == "error" or value.get("object") == "error":
        return read_error(value)
    return None if _ERROR_KEYS.isdisjoint(value) or not _is_error(value) else read_error(value)


def _is_error(value: Mapping[str, JsonValue]) -> bool:
    if any(_says(value.get(key)) for key in ("error", "errors")):
        return True
    if any(_says(value.get(key)) for key in ("error_message", "error_msg", "errorMessage")) and not any(
        value.get(key) in (0, "0") for key in ("error_code", "errorCode")
    ):
        return True
    base = value.get("base_resp")
    if isinstance(base, dict) and _is_code(base.get("status_code")):
        return True
    if any(value.get(key) for key in _CONTENT_KEYS):
        return False
    if _says(value.get("detail")):
        return True
    message = value.get("message")
    said = (isinstance(message, str) and message) or value.get("msg") or value.get("details")
    return bool(said) and (any(_is_code(value.get(key)) for key in _FAILURE_KEYS) or _is_error_type(value))


def _is_error_type(value: Mapping[str, JsonValue]) -> bool:
    """Whether `type` is the word for a failure, and not an event's name."""
    said = word(value.get("type"))
    return said is not None and status_of_word(said) is not None


_ERROR_KEYS = frozenset(
    (
        *("error", "errors", "error_message", "error_msg", "errorMessage", "base_resp"),
        *("detail", "message", "msg", "details"),
    )
)
# Where one of these has something in it, a `message` or a `detail` beside it is no error. (A `message` that is an
# object is content, too, and never taken for a text.)
_CONTENT_KEYS = ("choices", "candidates", "output", "content", "delta", "response", "done")
_SUCCESS_WORDS = frozenset(
    (
        *("ok", "success", "succeeded", "completed", "done", "finished", "ready"),
        *("in_progress", "processing", "running", "started", "starting", "queued", "in_queue", "pending"),
    )
)
"""Of what has gone well, or is under way."""


def _says(value: JsonValue) -> bool:
    """Whether `error` or a key like it holds an error: null, false, 0, `{}`, `[]`, `""` and `"null"` do not."""
    return word(value) is not None if isinstance(value, str) else bool(value)


def _is_code(value: JsonValue) -> bool:
    """Whether `value` is the code of a failure."""
    if isinstance(value, int) and value < 0:
        return True
    number = whole_number(value)
    if number is not None:
        return number != 0 and not 200 <= number <= 299
    said = word(value)
    return said is not None and said.lower() not in _SUCCESS_WORDS


def read_error(value: JsonValue) -> ProviderError:
    """A parsed body or event that is known to be an error, in whichever of the common shapes it is.

    Known: ``{"error":{…}}`` (OpenAI, Gemini, Anthropic), the same in an array (Gemini's stream), ``{"error":"text"}``
    (Ollama), ``{"errors":[…]}`` (Cloudflare), ``{"detail":…}`` (FastAPI), ``{"base_resp":{…}}`` (MiniMax), and the
    fields without an envelope.
    """
    layers, text = _layers(value)
    objects = [layer.fields for layer in layers]
    words = _words(layers)
    if text is not None and status_of_word(text) is not None:
        words = [text, *words]
    message = _joined([text, *(_own_text(fields) for fields in objects), _raw_text(objects)])
    numbers = (whole_number(fields.get(key)) for fields in objects for key in _CODE_KEYS + _STATUS_KEYS)
    number = next((str(number) for number in numbers if number is not None), None)
    statuses = (_http_status(fields.get(key)) for fields in objects for key in _STATUS_KEYS)
    return ProviderError(
        words[0] if words else number,
        message,
        objects[0] if objects else {},
        next((status for status in statuses if status is not None), None),
        tuple(words),
    )


class _Layer(NamedTuple):
    fields: Mapping[str, JsonValue]
    envelope: bool


def _layers(value: JsonValue) -> tuple[list[_Layer], str | None]:
    """The error object, then what it was wrapped in; and the text, where the error is a string instead."""
    layers: list[_Layer] = []
    for _ in range(_DEPTH):
        if isinstance(value, list):
            value = next((entry for entry in value[:_ENTRIES] if isinstance(entry, dict | str)), None)
        if not isinstance(value, dict):
            break
        inner = next(
            (value[key] for key in ("error", "errors", "base_resp") if _holds_error(key, value.get(key))), None
        )
        if inner is None and isinstance(detail := value.get("detail"), dict):
            inner = detail
        if inner is None:
            inner = _error_in_text(value.get("message"))
        layers.insert(0, _Layer(value, envelope=inner is not None))
        if inner is None:
            break
        value = inner
    return layers, word(value.strip()) if isinstance(value, str) else None


def _error_in_text(message: JsonValue) -> dict[str, JsonValue] | None:
    """The error that a proxy passes on as the text of its own: the whole body of the provider's answer."""
    if not isinstance(message, str) or not message.lstrip().startswith("{"):
        return None
    try:
        value = from_json(message)
    except ValueError:
        return None
    return value if isinstance(value, dict) and _is_error(value) else None


def _holds_error(key: str, value: JsonValue) -> bool:
    if key == "base_resp":
        return isinstance(value, dict) and _is_code(value.get("status_code"))
    return isinstance(value, dict | list | str) and _says(value)


def _words(layers: list[_Layer]) -> list[str]:
    """The code words and type words, of the error object first."""
    words: list[str] = []
    for fields, envelope in layers:
        for key in _CODE_KEYS:
            said = word(fields.get(key))
            if said is None or said == "error" or said.isdecimal():
                continue
            # What an envelope says of itself ("status":"failed") is no word for the error.
            if not envelope or key in _ERROR_WORDS or status_of_word(said) is not None:
                words.append(said)
        metadata = fields.get("metadata")  # OpenRouter
        if isinstance(metadata, dict) and (said := word(metadata.get("error_type"))) is not None:
            words.append(said)
    return words


def _text(value: JsonValue, depth: int = _DEPTH) -> str | None:
    """The text of an error: the first of `_TEXT_KEYS` that has one, the texts of an array joined."""
    if isinstance(value, str):
        return value.strip() or None
    if depth == 0:
        return None
    if isinstance(value, list):
        texts = [text for entry in value[:_ENTRIES] if (text := _text(entry, depth - 1)) is not None]
        return "; ".join(texts) or None
    if not isinstance(value, dict):
        return None
    text = next((said for key in _TEXT_KEYS if (said := _text(value.get(key), depth - 1)) is not None), None)
    path = value.get("loc")  # FastAPI: where in the request the mistake is
    if text is not None and isinstance(path, list) and path:
        steps = [str(step) for step in path[:_ENTRIES] if isinstance(step, str) or whole_number(step) is not None]
        return f"{'.'.join(steps)}: {text}"
    return text


def _own_text(fields: Mapping[str, JsonValue]) -> str | None:
    """The text of one layer: not that of the error inside it, unless there are several."""
    errors = fields.get("errors")
    if isinstance(errors, list) and len(errors) > 1:
        return _text(errors)
    return _text({key: value for key, value in fields.items() if key not in ("error", "errors")})


def _raw_text(objects: list[Mapping[str, JsonValue]]) -> str | None:
    """OpenRouter's `metadata.raw`: the answer of the provider behind it, as text or parsed."""
    for fields in objects:
        metadata = fields.get("metadata")
        if isinstance(metadata, dict) and (raw := metadata.get("raw")):
            return read_error_body(raw.encode("utf-8", "replace")).message if isinstance(raw, str) else _text(raw)
    return None


def _joined(texts: list[str | None]) -> str | None:
    said = list(dict.fromkeys(text for text in texts if text))
    return ": ".join(text for text in said if not any(text != other and text in other for other in said)) or None


def read_error_body(body: bytes) -> ProviderError:
    """As `read_error`, of bytes that may be no JSON, or only its beginning.

    Where no text is found in them, they are the message themselves.
    """
    text = body.decode("utf-8-sig", "replace").strip()
    payload = text.encode()  # valid UTF-8 in any case: the parser would end at the first byte that is not
    for line in text.splitlines()[:_ENTRIES] if text.startswith(("data:", "event:", "error:", ":")) else ():
        field, _, rest = line.partition(":")  # an error status with a body of server-sent events
        if field in ("data", "error"):
            payload = rest.strip().encode()
            break
    try:
        value = from_json(payload, allow_partial="trailing-strings")  # a long body is read up to a limit
    except ValueError:
        shorter = with_short_numbers(payload)
        return ProviderError(None, text or None, {}) if shorter == payload else read_error_body(shorter)
    if not isinstance(value, dict | list):
        return ProviderError(None, text or None, {})
    error = read_error(value)
    if error.message is not None or not value:
        return error
    return ProviderError(error.code, beginning(body), error.detail, error.status, error.words)


def beginning(body: bytes) -> str:
    """The first 300 characters of a body or payload, to quote it in a message."""
    return body[:1200].decode("utf-8", "replace").strip()[:300]


def _http_status(value: JsonValue) -> int | None:
    number = whole_number(value)
    return number if number is not None and 400 <= number <= 599 else None
