"""Reads `beluna.jsonc` into `Config`.

All mistakes are reported at once, each with its path; no message repeats a value that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .mistakes import excerpt, shape_mistake
from .rules import broken_rules
from .settings import Config

MAX_FILE_BYTES = 16 * 1024 * 1024
"""The largest configuration: a device has no end, and a reload would read it until there is no memory."""


class ConfigUnreadable(Exception):
    """The file is not there or may not be read (exit status 66)."""


class ConfigError(Exception):
    """The file is wrong (exit status 78); `mistakes` has all of them, a line each.

    Args:
        path: The file.
        mistakes: At least one.
        excerpt: The line of a syntax error and a caret below it, without the texts that may be secret.
    """

    def __init__(self, path: Path, mistakes: Iterable[str], excerpt: str = "") -> None:
        self.mistakes = tuple(mistakes)
        lines = [f"{path} is not a valid configuration:", *self.mistakes, *excerpt.splitlines()]
        super().__init__("\n  ".join(lines))


def load_config(path: Path) -> Config:
    """Reads and checks `path`.

    Raises:
        ConfigUnreadable: It cannot be read.
        ConfigError: It is not JSON5, or not a valid configuration.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(path, [f"the file: larger than {MAX_FILE_BYTES} bytes"])
        text = data.decode("utf-8")
    except OSError as error:
        raise ConfigUnreadable(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"]) from error
    raw = _parse_json5(text, path)
    mistakes = []
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        mistakes += [shape_mistake(details, raw) for details in error.errors(include_url=False, include_input=False)]
    mistakes += broken_rules(raw)
    if not mistakes:
        mistakes += _tls_mistakes(config, path.parent)
    if mistakes:
        raise ConfigError(path, mistakes)
    return config


def _tls_mistakes(config: Config, folder: Path) -> Iterator[str]:
    """The files of `tls` are read for each pool of connections; whether they can be is known before."""
    gateway = config.ai_gateway
    sections = [(f"backends[{index}]", backend.tls) for index, backend in enumerate(gateway.backends)]
    if gateway.shared is not None:
        sections.append(("shared", gateway.shared.tls))
    for path, tls in sections:
        if tls is not None:
            from .tls_files import tls_context  # `ssl` takes 10 ms to import

            try:
                tls_context(tls, folder)
            except ValueError as error:
                yield f"ai_gateway.{path}.tls.{error}"


def _parse_json5(text: str, path: Path) -> Any:
    if not text or text.isspace():
        raise ConfigError(path, ["the file: empty, expected an object; `beluna-gateway init FOLDER` writes an example"])
    import pyjson5  # here, so that `--version` and library users do not pay for it

    try:
        return pyjson5.decode(text)
    except pyjson5.Json5DecoderException as error:
        # The library names the position ("… near 123, …"), in characters from 1; the rest may quote the file, and is
        # not shown.
        said = str(error.args[0])
        position = re.search(r"near (\d+)", said)
        before = text[: max(int(position[1]) - 1, 0)] if position else text
        if isinstance(error, pyjson5.Json5ExtraData):  # it says where the value ended
            before = text[: len(text) - len(text[len(before) + 1 :].lstrip())]
        begin = before.rfind("\n") + 1
        line, column = before.count("\n") + 1, len(before) - begin + 1
        what = "Number" if "NumericLiteral" in said else type(error).__name__.removeprefix("Json5")
        mistake = f"line {line}, column {column}: not JSON5 ({_SYNTAX.get(what, what)})"
        raise ConfigError(path, [mistake], excerpt(text[begin:].partition("\n")[0], column)) from None


_SYNTAX = {
    "Number": "a number that cannot be read",
    "EOF": "the file ends too early: a bracket, quote or comment is not closed",
    "IllegalCharacter": "this character may not stand here; is a comma missing before it, or one too many?",
    "ExtraData": "something stands after the end of the configuration",
    "NestingTooDeep": "nested too deeply",
    "IllegalType": "a value of this type may not stand here",
}
