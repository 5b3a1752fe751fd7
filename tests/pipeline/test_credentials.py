"""`CredentialResolver`: from a reference to a secret, anew for each request."""

from __future__ import annotations

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
    return CredentialResolver(Redactor(), environment or {}).resolve(profile(folder, credential)).secret


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

    assert resolver.resolve(wanted).secret == "old"
    environment["KEY"] = "new"
    assert resolver.resolve(wanted).secret == "new"


def test_a_file_is_read_for_each_request(tmp_path: Path):
    """A rotated secret is taken, trimmed."""
    resolver, wanted = CredentialResolver(Redactor(), {}), profile(tmp_path, {"type": "file", "path": "key"})
    (tmp_path / "key").write_text("old\n")

    assert resolver.resolve(wanted).secret == "old"
    (tmp_path / "key").write_text("\n  new\r\n")
    assert resolver.resolve(wanted).secret == "new"


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


@pytest.mark.parametrize("secret", ["sk-\nX-Evil: 1", "sk-\x00", "sk-\x7f", "a\u2028b", "a\udcffb"])
def test_a_secret_that_would_break_a_header_is_refused(tmp_path: Path, secret: str):
    """Control characters inside of a secret are refused, and the secret is not told."""
    message = refusal(tmp_path, {"type": "env", "var": "KEY"}, {"KEY": secret})

    assert "control characters" in message
    assert "sk-" not in message


def test_a_file_that_cannot_be_read_is_told_from_a_missing_one(tmp_path: Path):
    """A folder, or bytes that are no text: the message says so."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert "is unreadable: Is a directory" in refusal(tmp_path, {"type": "file", "path": "folder"})
    assert "is not UTF-8" in refusal(tmp_path, {"type": "file", "path": "binary"})


@pytest.mark.parametrize(
    "credential",
    [{"type": "inline_token", "token": "sk-secret"}, {"type": "env", "var": "KEY"}, {"type": "file", "path": "key"}],
    ids=lambda credential: str(credential["type"]),
)
def test_the_redactor_learns_what_was_resolved(tmp_path: Path, credential: dict[str, Any]):
    """A secret that has been used is taken out of texts, and its `repr` hides it."""
    (tmp_path / "key").write_text("sk-secret")
    redactor = Redactor()
    resolved = CredentialResolver(redactor, {"KEY": "sk-secret"}).resolve(profile(tmp_path, credential))

    assert redactor.redact("Bearer sk-secret") == "Bearer <redacted>"
    assert "sk-secret" not in repr(resolved)
