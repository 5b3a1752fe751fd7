"""`CredentialRef` → `ResolvedCredential`. The one place that reads secrets, from the environment or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .canonical import ResolvedCredential
from .config import BackendProfile, EnvCredential, FileCredential, InlineCredential
from .errors import GatewayError
from .redaction import Redactor


class CredentialResolver:
    """Resolves per request, so that a rotated secret is taken; what it has seen, the redactor knows."""

    def __init__(self, redactor: Redactor, environment: Mapping[str, str] = os.environ) -> None:
        self._redactor = redactor
        self._environment = environment

    def resolve(self, profile: BackendProfile) -> ResolvedCredential:
        """The secret for `profile`.

        Raises:
            GatewayError: `authentication`, where the variable or file is missing, unreadable or blank.
        """
        match profile.backend.credential:
            case EnvCredential(var=name):
                secret = self._environment.get(name)
                where = f"the environment variable {name}"
            case FileCredential(path=path):
                secret = self._read(Path(path), profile)
                where = f"the credential file {path}"
            case InlineCredential(token=token):
                secret, where = token, "the inline token"
            case _:
                return ResolvedCredential(None)
        if secret is None or not secret.strip():
            state = "missing" if secret is None else "blank"
            raise GatewayError(
                "authentication", f"no credential for backend {profile.id!r}: {where} is {state}", backend_id=profile.id
            )
        secret = secret.strip()
        if not secret.isprintable():
            raise GatewayError(
                "authentication",
                f"no credential for backend {profile.id!r}: {where} holds control characters",
                backend_id=profile.id,
            )
        self._redactor.learn(secret)
        return ResolvedCredential(secret)

    def _read(self, path: Path, profile: BackendProfile) -> str | None:
        """The file's text, or None. A relative path is systemd's (LoadCredential=) first, then the config's neighbour."""
        folders = [profile.folder]
        if credentials_directory := self._environment.get("CREDENTIALS_DIRECTORY"):
            folders.insert(0, Path(credentials_directory))
        for folder in folders:
            try:
                return (folder / path).read_text("utf-8")  # an absolute path stays itself
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError):
                return None
        return None
