"""Credentials that a program prints: short-lived tokens of clouds, secrets out of vaults.

The program is started without a shell. What it prints is kept until it expires or the provider refuses it with a 401;
one run serves all requests that wait for it.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..config.settings import CommandCredential
from ..errors import GatewayError
from .child_process import ChildProcess, configured_program

MAX_OUTPUT_BYTES = 64 * 1024
"""The longest standard output of a credential command."""

EARLY_SECONDS = 30.0
"""A token is asked for anew so long before `expires_at`, so that it does not expire on its way to the provider."""

_TAIL_CHARACTERS = 800  # of its standard error in an error message, which has 2,000

# What systemd told this process about itself; a child that took it for its own would speak to systemd in our name.
_OURS_ALONE = frozenset(
    {"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"}
)


_YEAR_10000 = 253_402_300_800  # in Unix seconds; what is larger counts milliseconds


@dataclass(frozen=True, slots=True)
class Token:
    """What a command printed."""

    secret: str
    expires_at: float = math.inf
    """Unix seconds."""


def parse_output(output: bytes) -> Token:
    """The secret in a command's standard output: the trimmed text itself, or `{"token", "expires_at"}` as JSON.

    Raises:
        ValueError: It is neither, saying why; its text never quotes the output.
    """
    if len(output) > MAX_OUTPUT_BYTES:
        raise ValueError(f"printed more than {MAX_OUTPUT_BYTES} bytes")
    try:
        text = output.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("printed text that is not UTF-8") from None
    try:
        value = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    expires_at = math.inf
    if isinstance(value, dict):
        expires_at = _unix_seconds(value.get("expires_at"))
        secret = value.get("token")
        if not isinstance(secret, str):
            raise ValueError('printed a JSON object without a string "token"; expected {"token":"…","expires_at":…}')  # noqa: TRY004 - the text is wrong
        text = secret.strip()
    if not text:
        raise ValueError("printed nothing")
    if not text.isprintable():
        raise ValueError("printed control characters or more than one line")
    return Token(text, expires_at)


def _unix_seconds(said: object) -> float:
    if said is None:
        return math.inf
    if isinstance(said, str):
        # RFC 3339, section 5.6: T and Z may be small, and a leap second is the 61st of its minute.
        said, leap = said.upper(), said[17:19] == "60"
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(f"{said[:17]}59{said[19:]}" if leap else said)
            if moment.tzinfo is not None:
                return moment.timestamp() + leap
    elif isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said < _YEAR_10000:
        return float(said)
    raise ValueError('printed an "expires_at" that is neither an RFC 3339 time with its offset nor Unix seconds')


@dataclass(frozen=True, slots=True)
class _Kept:
    secret: str
    expires_at: float
    """On the wall clock, which goes on while the machine sleeps."""
    until: float
    """On the monotonic clock, which nobody sets."""


_Key = tuple[Path, tuple[str, ...]]


class CommandCredentials:
    """Runs credential commands and keeps what they print.

    Args:
        environment: What the commands get. A credential helper finds its own login there (`VAULT_TOKEN`,
            `AWS_PROFILE`, `HOME`), so it is the daemon's whole environment but for what systemd said to the daemon.
        clock: Monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._environment = environment
        self._clock = clock
        self._wall = wall
        self._kept: dict[_Key, _Kept] = {}
        self._runs: dict[_Key, asyncio.Task[str | GatewayError]] = {}

    async def secret(self, credential: CommandCredential, folder: Path) -> str:
        """The secret, kept or new.

        Raises:
            GatewayError: `authentication`: the command failed, took too long or printed what is no secret.
        """
        key = (folder, tuple(credential.command))
        kept = self._kept.get(key)
        if kept is not None and self._clock() < kept.until and self._wall() < kept.expires_at:
            return kept.secret
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = asyncio.create_task(self._ask(credential, key))
            run.add_done_callback(lambda _: self._runs.pop(key, None))
        # Not cancelled with the request that waits: others wait for it, too, and the next one can use what it prints.
        said = await asyncio.shield(run)
        if isinstance(said, GatewayError):
            raise said.replace()
        return said

    def refused(self, credential: CommandCredential, folder: Path, secret: str) -> None:
        """The provider refused `secret`: it is not used again. A newer one stays."""
        key = (folder, tuple(credential.command))
        kept = self._kept.get(key)
        if kept is not None and kept.secret == secret:
            del self._kept[key]

    async def close(self) -> None:
        """Stops the commands that run."""
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        if runs:
            await asyncio.wait(runs)

    async def _ask(self, credential: CommandCredential, key: _Key) -> str | GatewayError:
        command = credential.command[0]
        try:
            program = configured_program(command, key[0], "credential.command")
            async with asyncio.timeout(credential.timeout_ms / 1000):
                output = await self._output(program, credential.command[1:], key[0])
            token = parse_output(output)
        except TimeoutError:
            limit = f"{credential.timeout_ms} ms (credential.timeout_ms)"
            return _failed(f"the credential command {command} did not end within {limit}")
        except GatewayError as error:
            return _failed(error.message)
        except ValueError as error:
            return _failed(f"the credential command {command} {error}")
        lifetime = math.inf if credential.ttl_ms is None else credential.ttl_ms / 1000
        self._kept[key] = _Kept(token.secret, token.expires_at - EARLY_SECONDS, self._clock() + lifetime)
        return token.secret

    async def _output(self, program: str, arguments: list[str], folder: Path) -> bytes:
        env = {name: value for name, value in self._environment.items() if name not in _OURS_ALONE}
        async with ChildProcess(program, arguments, env=env, cwd=folder, stdout=True) as child:
            output = b""
            while len(output) <= MAX_OUTPUT_BYTES and (piece := await child.stdout.read(MAX_OUTPUT_BYTES)):
                output += piece
            if len(output) <= MAX_OUTPUT_BYTES and await child.wait() != 0:
                raise GatewayError("authentication", f"the credential command {_how_it_failed(program, child, output)}")
        return output


def _how_it_failed(program: str, child: ChildProcess, output: bytes) -> str:
    said = child.stderr_tail
    for printed in {output.decode("utf-8", "replace").strip(), *output.decode("utf-8", "replace").split()}:
        if len(printed) >= 8:  # it may be the secret all the same; what is shorter is a word
            said = said.replace(printed, "<redacted>")
    return f"{program} ended with {child.ending}" + (f": {said[-_TAIL_CHARACTERS:]}" if said else "")


def _failed(message: str) -> GatewayError:
    return GatewayError("authentication", message)
