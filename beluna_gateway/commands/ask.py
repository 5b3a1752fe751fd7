"""`beluna-gateway ask`: one question through the daemon, its answer printed as it comes."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import mimetypes
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ..client import DaemonGone, connect
from ..telemetry.terminal import printable, printable_json
from .lookup import is_unicode, socket_path, tell_no_daemon
from .outcome import FAILED, OK, UNREADABLE, USAGE, complain, is_of_output

WAIT_SECONDS = 0.5
"""How long nothing may come before a person is told what is waited for."""


class UnreadableFile(Exception):
    """A file that cannot be sent; the message says why."""


def file_parts(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Each file as a part of a message: an image by its kind, anything else as a file.

    Raises:
        UnreadableFile: It cannot be read, or its name does not tell its media type.
    """
    return [_file_part(path) for path in paths]


def _file_part(path: Path) -> dict[str, Any]:
    mime_type, _ = mimetypes.guess_type(path.name)
    if mime_type is None:
        raise UnreadableFile(f"{path}: its name does not tell what it is; give it an ending like .png or .pdf")
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UnreadableFile(f"cannot read {path}: {error.strerror}") from None
    if mime_type.startswith("image/"):
        return {"image_url": {"url": f"data:{mime_type};base64,{data}"}}
    return {"file": {"data": data, "mime_type": mime_type, "name": path.name}}


async def list_models(path: Path, backend: str | None) -> dict[str, Any]:
    """The frame that answers `models`.

    Raises:
        OSError: Nobody answers at `path`.
    """
    async with connect(path) as client:
        return await client.models(backend_id=backend)


async def ask_daemon(
    path: Path, question: str, files: list[dict[str, Any]], options: argparse.Namespace
) -> tuple[bool, str]:
    """Asks, and prints the answer to standard output.

    Args:
        path: The daemon's socket.
        question: The text of the one message of the user.
        files: What stands before it in that message, from `file_parts`.
        options: `backend`, `model`, `system`, `max_output_tokens`, `effort` and `json`, as the command line has them.

    Returns:
        Whether the answer completed, and what is to be said about how it ended, if anything.

    Raises:
        OSError: Nobody answers at `path`, or nobody reads standard output.
    """
    messages = [{"role": "system", "parts": [{"text": {"text": options.system}}]}] if options.system else []
    messages.append({"role": "user", "parts": [*files, {"text": {"text": question}}]})
    fields = {"messages": messages, "backend_id": options.backend, "model": options.model}
    fields["limits"] = {"max_output_tokens": options.max_output_tokens}
    if options.effort is not None:
        fields["reasoning"] = {"effort": options.effort}
    middle_of_line = False
    with WaitingNotice(options.backend or "the daemon") as notice:
        async with connect(path) as client:
            try:
                answer = client.infer(**fields)
                async for frame in answer:
                    notice.see(frame)
                    if options.json:
                        print(printable_json(json.dumps(frame, ensure_ascii=False)), flush=True)
                    elif frame["type"] == "output_text_delta":
                        print(printable(frame["delta"], keep="\n\t"), end="", flush=True)
                        middle_of_line = not frame["delta"].endswith("\n")
            except DaemonGone as error:
                frame = {"type": "failed", "error": {"kind": "internal", "message": str(error)}}
    if middle_of_line:
        print(flush=True)
    if options.json:
        return frame["type"] == "completed", ""
    if frame["type"] == "completed":
        reason = frame["finish_reason"]
        return True, "" if reason == "stop" else f"the answer ended with {json.dumps(reason)}"
    return False, f"{frame['error']['kind']}: {frame['error']['message']}"


class WaitingNotice:
    """While nothing of the answer has come, a person at a terminal reads on standard error what is waited for.

    Args:
        name: Whom the question is for, until the daemon names its backend.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, self._show)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def see(self, frame: Mapping[str, Any]) -> None:
        """Takes each frame before it is printed: the first after `started` ends the notice."""
        if frame["type"] != "started":
            self._end()
        elif frame["backend_id"] != self._name:
            self._name = frame["backend_id"]
            if self._shown:
                self._show()

    def _show(self) -> None:
        self._shown = True
        self._write(f"{_CLEAR_LINE}waiting for {printable(self._name)} …")

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._shown:
            self._shown = False
            self._write(_CLEAR_LINE)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)


_CLEAR_LINE = "\r\x1b[K"  # ECMA-48: to the line's begin, then erase to its end


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    path = socket_path(options)
    if isinstance(path, int):
        return path
    question = _question(options)
    if isinstance(question, int):
        return question
    try:
        files = file_parts(options.file or ())
    except UnreadableFile as error:
        complain(str(error))
        return UNREADABLE
    try:
        ok, remark = asyncio.run(ask_daemon(path, question, files, options))
    except OSError as error:
        if is_of_output(error):
            raise
        return tell_no_daemon(path, error)
    if remark:
        complain(remark)
    return OK if ok else FAILED


def _question(options: argparse.Namespace) -> str | int:
    """The question, or the exit status after it was told what is wrong with the arguments."""
    question = options.question
    if question == "-":
        data = sys.stdin.buffer.read()
        try:
            question = data.decode()
        except UnicodeDecodeError as error:
            complain(f"the question is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}")
            return USAGE
    for name, text in (("the question", question), *((f"--{n}", getattr(options, n)) for n in _ASK_TEXTS)):
        if text is not None and not is_unicode(text):
            complain(f"{name} is not UTF-8")
            return USAGE
    if not question.strip():
        complain("the question is empty")
        return USAGE
    return str(question)


_ASK_TEXTS = ("backend", "model", "system")
