"""Credentials from commands: what is read of their output, when they run, and what a failure says."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.config.settings import CommandCredential
from beluna_gateway.errors import GatewayError
from beluna_gateway.processes.credential_command import EARLY_SECONDS, CommandCredentials, Token, parse_output

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "NOTIFY_SOCKET": "/run/notify", "VAULT_TOKEN": "its-own-login"}


@pytest.mark.parametrize(
    ("output", "token"),
    [
        (b"sk-1\n", Token("sk-1")),
        (b" sk-1 ", Token("sk-1")),
        (b'{"token":"t"}', Token("t")),
        (b'{"token":" t ","expires_at":null}', Token("t")),
        (b'{"token":"t","expires_at":1000}', Token("t", 1000.0)),
        (b'{"token":"t","expires_at":1000.5,"more":1}', Token("t", 1000.5)),
        (b'{"token":"t","expires_at":"1970-01-01T00:16:40Z"}', Token("t", 1000.0)),
        (b'{"token":"t","expires_at":"1970-01-01T01:16:40+01:00"}', Token("t", 1000.0)),
        (b'{"token":"t","expires_at":"1970-01-01T00:16:40.123456789Z"}', Token("t", 1000.123456)),
        (b'{"token":"t","expires_at":"1970-01-01t00:16:40z"}', Token("t", 1000.0)),
        (b'{"token":"t","expires_at":"1990-12-31T15:59:60.5-08:00"}', Token("t", 662688000.5)),
        (b"{this is no JSON", Token("{this is no JSON")),
        (b"[1]", Token("[1]")),
    ],
)
def test_what_a_command_prints(output: bytes, token: Token):
    """The trimmed text is the secret, or a JSON object names it and its end."""
    assert parse_output(output) == token


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (b"", "printed nothing"),
        (b" \n", "printed nothing"),
        (b'{"token":""}', "printed nothing"),
        (b"sk-1\nsk-2", "more than one line"),
        (b"\x1b[1mbold", "control characters"),
        (b"\xff", "not UTF-8"),
        (b"x" * 65537, "more than 65536 bytes"),
        (b'{"key":"sk-secret"}', "token"),
        (b'{"token":1}', "token"),
        (b'{"token":"t","expires_at":true}', "expires_at"),
        (b'{"token":"t","expires_at":-1}', "expires_at"),
        (b'{"token":"t","expires_at":1764150000000}', "expires_at"),
        (b'{"token":"t","expires_at":"tomorrow"}', "expires_at"),
        (b'{"token":"t","expires_at":"2026-01-01T00:00:00"}', "its offset"),
    ],
)
def test_what_is_no_secret(output: bytes, why: str):
    """A mistake of the command is named, and never quoted: a secret may stand in it."""
    with pytest.raises(ValueError, match=why) as caught:
        parse_output(output)

    assert "sk-secret" not in str(caught.value)


@given(st.binary(max_size=200) | st.text().map(lambda text: f'{{"token":"t","expires_at":{text}}}'.encode()))
def test_any_output_is_a_secret_or_a_mistake(output: bytes):
    """No output raises anything but `ValueError`, and what is taken can stand in a header line."""
    try:
        token = parse_output(output)
    except ValueError:
        return
    assert token.secret.isprintable()
    assert not math.isnan(token.expires_at)


class Counted:
    """A command that prints its number of runs, on a clock of the test's own."""

    def __init__(self, folder: Path, script: str, **settings: Any) -> None:
        program = folder / "helper"
        program.write_text(f'#!/bin/sh\necho run >> "{folder}/runs"\n{script}\n')
        program.chmod(0o755)
        self.folder = folder
        self.credential = CommandCredential(type="command", command=["./helper"], **settings)
        self.now = 0.0
        self.wall = 0.0
        self.commands = CommandCredentials(ENVIRONMENT, lambda: self.now, lambda: self.wall)

    async def secret(self) -> str:
        return await self.commands.secret(self.credential, self.folder)

    def refused(self, secret: str) -> None:
        self.commands.refused(self.credential, self.folder, secret)

    @property
    def runs(self) -> int:
        file = self.folder / "runs"
        return len(file.read_text().splitlines()) if file.exists() else 0


NUMBERED = 'echo "sk-$(wc -l < runs | tr -d " ")"'


async def test_a_secret_is_kept_for_its_ttl(tmp_path: Path):
    """The command runs once, and again when `ttl_ms` is over."""
    helper = Counted(tmp_path, NUMBERED, ttl_ms=1000)

    assert [await helper.secret(), await helper.secret()] == ["sk-1", "sk-1"]
    helper.now = 1.0
    assert await helper.secret() == "sk-2"


async def test_a_token_is_renewed_before_it_expires(tmp_path: Path):
    """`expires_at` counts on the wall clock, less a margin; without it a secret is kept."""
    helper = Counted(tmp_path, 'echo "{\\"token\\":\\"t$(wc -l < runs | tr -d " ")\\",\\"expires_at\\":3600}"')

    assert await helper.secret() == "t1"
    helper.wall = 3600 - EARLY_SECONDS - 0.1
    assert await helper.secret() == "t1"
    helper.wall = 3600 - EARLY_SECONDS
    assert await helper.secret() == "t2"


async def test_one_run_serves_all_that_wait(tmp_path: Path):
    """Twenty requests at once ask once; one that is cancelled takes nothing from the others."""
    helper = Counted(tmp_path, f"sleep 0.2\n{NUMBERED}")
    leaver, *others = [asyncio.create_task(helper.secret()) for _ in range(21)]
    await asyncio.sleep(0.05)
    leaver.cancel()

    assert await asyncio.gather(*others) == ["sk-1"] * 20
    assert helper.runs == 1


async def test_a_refused_secret_is_asked_for_anew(tmp_path: Path):
    """What the provider refused is dropped; a newer one, which another request has brought, stays."""
    helper = Counted(tmp_path, NUMBERED)
    old = await helper.secret()

    helper.refused(old)
    assert await helper.secret() == "sk-2"
    helper.refused(old)
    assert await helper.secret() == "sk-2"


async def test_a_failed_command_says_its_last_words_and_no_secret(tmp_path: Path):
    """Exit status and standard error are told, without what was printed; the next request tries again."""
    helper = Counted(tmp_path, 'echo sk-very-secret; echo "expired: log in; sk-very-secret" >&2; exit 3')

    for _ in range(2):
        with pytest.raises(GatewayError, match="exit status 3: expired: log in") as caught:
            await helper.secret()
        assert (caught.value.kind, caught.value.retryable) == ("authentication", False)
        assert "sk-very-secret" not in caught.value.message
    assert helper.runs == 2


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sleep 60", "did not end within 300 ms"),
        ("exec >&-; sleep 60", "did not end within 300 ms"),
        ("yes", "more than 65536 bytes"),
        ("kill -9 $$", "SIGKILL"),
    ],
)
async def test_a_command_that_misbehaves_is_stopped(tmp_path: Path, script: str, why: str):
    """Too slow, too long, killed: `authentication`, and no process is left."""
    helper = Counted(tmp_path, script, timeout_ms=300)

    with pytest.raises(GatewayError, match=why) as caught:
        await helper.secret()

    assert caught.value.kind == "authentication"


async def test_a_missing_program_is_named(tmp_path: Path):
    """A program that is not there fails like a command that fails."""
    commands = CommandCredentials(ENVIRONMENT)
    credential = CommandCredential(type="command", command=["./nobody"])

    with pytest.raises(GatewayError, match=r"credential\.command: the program .*nobody does not exist") as caught:
        await commands.secret(credential, tmp_path)

    assert caught.value.kind == "authentication"


async def test_a_command_has_the_daemons_environment_but_not_its_place_under_systemd(tmp_path: Path):
    """It finds its own login; it cannot speak to systemd in the daemon's name."""
    helper = Counted(tmp_path, 'echo "$VAULT_TOKEN-$NOTIFY_SOCKET-"')

    assert await helper.secret() == "its-own-login--"


async def test_closing_stops_a_command_that_runs(tmp_path: Path):
    """Whoever closes waits for nothing longer than the program's end."""
    helper = Counted(tmp_path, "exec sleep 60")
    waiting = asyncio.create_task(helper.secret())
    while not helper.runs:
        await asyncio.sleep(0.01)

    await helper.commands.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
