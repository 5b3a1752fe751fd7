"""`CredentialResolver`: from a reference to a secret, anew for each request."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.config.settings import BackendProfile, Config, profiles
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.credentials import CredentialResolver
from beluna_gateway.telemetry.redaction import Redactor


def profile(folder: Path, credential: dict[str, Any]) -> BackendProfile:
    backend = {"id": "b", "dialect": "ollama", "credential": credential, "default_model": "m"}
    config = Config.model_validate({"ai_gateway": {"default_backend": "b", "backends": [backend]}})
    return profiles(config, folder)["b"]


def resolve(folder: Path, credential: dict[str, Any], environment: dict[str, str] | None = None) -> str | None:
    resolver = CredentialResolver(Redactor(), environment or {})
    return asyncio.run(resolver.resolve(profile(folder, credential))).secret


def refusal(folder: Path, credential: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    with pytest.raises(GatewayError) as caught:
        resolve(folder, credential, environment)
    assert (caught.value.kind, caught.value.retryable, caught.value.backend_id) == ("authentication", False, "b")
    return caught.value.message


def test_none_needs_nothing(tmp_path: Path):
    """A backend without a credential gets none."""
    assert resolve(tmp_path, {"type": "none"}) is None


def test_an_inline_token_is_the_secret(tmp_path: Path):
    """What stands in the configuration is taken, without the blanks around it."""
    assert resolve(tmp_path, {"type": "inline_token", "token": " sk-1\n"}) == "sk-1"


def test_a_variable_is_read_for_each_request(tmp_path: Path):
    """The environment's value of now counts, not that of the start."""
    environment = {"KEY": "old"}
    resolver, wanted = CredentialResolver(Redactor(), environment), profile(tmp_path, {"type": "env", "var": "KEY"})

    assert asyncio.run(resolver.resolve(wanted)).secret == "old"
    environment["KEY"] = "new"
    assert asyncio.run(resolver.resolve(wanted)).secret == "new"


def test_a_file_is_read_for_each_request(tmp_path: Path):
    """A rotated secret is taken, trimmed."""
    resolver, wanted = CredentialResolver(Redactor(), {}), profile(tmp_path, {"type": "file", "path": "key"})
    (tmp_path / "key").write_text("old\n")

    assert asyncio.run(resolver.resolve(wanted)).secret == "old"
    (tmp_path / "key").write_text("\n  new\r\n")
    assert asyncio.run(resolver.resolve(wanted)).secret == "new"


def test_a_relative_file_is_systemds_first(tmp_path: Path):
    """$CREDENTIALS_DIRECTORY comes before the config file's folder, and the folder is still looked into."""
    loaded, beside = tmp_path / "loaded", tmp_path / "beside"
    loaded.mkdir()
    beside.mkdir()
    (loaded / "key").write_text("from systemd")
    (beside / "key").write_text("from the folder")
    (beside / "other").write_text("other")
    environment = {"CREDENTIALS_DIRECTORY": str(loaded)}

    assert resolve(beside, {"type": "file", "path": "key"}, environment) == "from systemd"
    assert resolve(beside, {"type": "file", "path": "key"}, {"CREDENTIALS_DIRECTORY": ""}) == "from the folder"
    assert resolve(beside, {"type": "file", "path": "other"}, environment) == "other"
    assert resolve(loaded, {"type": "file", "path": str(beside / "key")}, environment) == "from the folder"


def test_what_is_missing_is_named(tmp_path: Path):
    """A missing variable or file is `authentication`, naming where it was looked for."""
    assert "the environment variable KEY is missing" in refusal(tmp_path, {"type": "env", "var": "KEY"})
    assert "the credential file nowhere is missing" in refusal(tmp_path, {"type": "file", "path": "nowhere"})


@pytest.mark.parametrize("blank", ["", " ", "\n\t\r\n"])
def test_a_blank_secret_is_none(tmp_path: Path, blank: str):
    """A secret of nothing but blanks is refused here, and never sent as an empty header."""
    (tmp_path / "key").write_text(blank)

    assert "is blank" in refusal(tmp_path, {"type": "env", "var": "KEY"}, {"KEY": blank})
    assert "is blank" in refusal(tmp_path, {"type": "file", "path": "key"})
    if blank:
        assert "is blank" in refusal(tmp_path, {"type": "inline_token", "token": blank})


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("sk-\nX-Evil: 1", "control characters"),
        ("sk-\x00", "control characters"),
        ("sk-\x7f", "control characters"),
        ("a\u2028b", "control characters"),
        ("a\udcffb", "is not UTF-8"),
    ],
)
def test_a_secret_that_would_break_a_header_is_refused(tmp_path: Path, secret: str, why: str):
    """Control characters inside of a secret are refused, and the secret is not told."""
    message = refusal(tmp_path, {"type": "env", "var": "KEY"}, {"KEY": secret})

    assert why in message
    assert "sk-" not in message


def test_a_file_that_cannot_be_read_is_told_from_a_missing_one(tmp_path: Path):
    """A loop of links, or bytes that are no text: the message says so."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert "is unreadable: Too many levels" in refusal(tmp_path, {"type": "file", "path": "loop"})
    assert "is not UTF-8" in refusal(tmp_path, {"type": "file", "path": "binary"})


@pytest.mark.parametrize("kind", ["folder", "FIFO", "device", "socket", "link to a device"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str):
    """Reading anything else could block for ever or never end."""
    path = tmp_path / "key"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path = Path("/dev/zero") if kind == "device" else path
        if kind != "device":
            path.symlink_to("/dev/zero")

    assert "is not a regular file" in refusal(tmp_path, {"type": "file", "path": str(path)})


def test_a_file_that_becomes_a_fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that takes the file's place after the first look is opened without blocking, and not read."""
    (tmp_path / "file").write_text("sk-1")
    os.mkfifo(tmp_path / "fifo")
    looked = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda _: looked)

    assert "is not a regular file" in refusal(tmp_path, {"type": "file", "path": "fifo"})


def test_a_file_of_a_gibibyte_is_refused(tmp_path: Path):
    """Files may have 64 KiB; not more than that is read of a larger one."""
    (tmp_path / "key").write_text("k" * 64 * 1024)
    with (tmp_path / "large").open("wb") as large:
        large.truncate(1024**3)
    tracemalloc.start()
    try:
        assert resolve(tmp_path, {"type": "file", "path": "key"}) == "k" * 64 * 1024
        assert "is larger than 65536 bytes" in refusal(tmp_path, {"type": "file", "path": "large"})
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()
    (tmp_path / "key").write_text("k" * (64 * 1024 + 1))
    assert "is larger" in refusal(tmp_path, {"type": "file", "path": "key"})


@pytest.mark.parametrize(
    "credential",
    [{"type": "inline_token", "token": "sk-secret"}, {"type": "env", "var": "KEY"}, {"type": "file", "path": "key"}],
    ids=lambda credential: str(credential["type"]),
)
def test_the_redactor_learns_what_was_resolved(tmp_path: Path, credential: dict[str, Any]):
    """A secret that has been used is taken out of texts, and its `repr` hides it."""
    (tmp_path / "key").write_text("sk-secret")
    redactor = Redactor()
    resolver = CredentialResolver(redactor, {"KEY": "sk-secret"})
    resolved = asyncio.run(resolver.resolve(profile(tmp_path, credential)))

    assert redactor.redact("Bearer sk-secret") == "Bearer <redacted>"
    assert "sk-secret" not in repr(resolved)


async def test_a_command_is_asked_again_only_after_a_refusal(tmp_path: Path):
    """Its secret is learnt by the redactor; after a 401 a newer one replaces it, the same one does not."""
    (tmp_path / "number").write_text("1")
    redactor = Redactor()
    resolver = CredentialResolver(redactor, {"PATH": "/usr/bin:/bin"})
    wanted = profile(tmp_path, {"type": "command", "command": ["sh", "-c", "echo sk-$(cat number)"]})

    first = await resolver.resolve(wanted)
    assert (first.secret, redactor.redact("it is sk-1")) == ("sk-1", "it is <redacted>")
    assert await resolver.renewed(wanted, first) is None
    (tmp_path / "number").write_text("2")
    assert await resolver.resolve(wanted) == first
    newer = await resolver.renewed(wanted, first)
    assert newer is not None
    assert newer.secret == "sk-2"
    await resolver.close()


async def test_a_failed_command_fails_its_backends_requests(tmp_path: Path):
    """Like a missing variable: `authentication`, naming the backend and the command."""
    resolver = CredentialResolver(Redactor(), {"PATH": "/usr/bin:/bin"})

    with pytest.raises(
        GatewayError, match=r"no credential for backend 'b': the credential command .*false ended"
    ) as it:
        await resolver.resolve(profile(tmp_path, {"type": "command", "command": ["false"]}))

    assert (it.value.kind, it.value.backend_id) == ("authentication", "b")
