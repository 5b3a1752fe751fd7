"""Resolves a backend's `credential` to its secret: from the environment, a file, the configuration or a command."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from ..canonical import ResolvedCredential
from ..config.settings import (
    BackendProfile,
    CommandCredential,
    CredentialRef,
    EnvCredential,
    FileCredential,
    InlineCredential,
    NoCredential,
)
from ..errors import GatewayError
from ..processes.credential_command import CommandCredentials
from ..telemetry.redaction import Redactor

MAX_FILE_BYTES = 64 * 1024
"""The largest credential file."""


class CredentialResolver:
    """Resolves a credential for each request, so that a rotated secret is used; teaches each one to the redactor."""

    def __init__(self, redactor: Redactor, environment: Mapping[str, str] = os.environ) -> None:
        self._redactor = redactor
        self._environment = environment
        self._commands = CommandCredentials(environment)

    async def resolve(self, profile: BackendProfile) -> ResolvedCredential:
        """The secret for `profile`, and that for its proxy. Waits only where a command has to be asked for one.

        Raises:
            GatewayError: `authentication`, where the variable or file is missing, unreadable or blank, or the command
                failed.
        """
        credential, proxy = profile.backend.credential, profile.backend.proxy_credential
        for_proxy = None
        if proxy is not None:
            for_proxy = await self.secret(proxy, profile.folder, profile)
            if for_proxy is not None:
                user, colon, password = for_proxy.partition(":")
                if not colon or not user:
                    raise _no_credential(profile, "the proxy_credential is not of the form user:password")
                self._redactor.learn(password)
        if type(credential) is CommandCredential:
            secret = await self.secret(credential, profile.folder, profile)
        else:
            secret = self._stored(credential, profile.folder, profile)
        return _NOTHING if secret is None and for_proxy is None else ResolvedCredential(secret, for_proxy)

    async def secret(
        self, credential: CredentialRef, folder: Path, whose: BackendProfile | str, refused: str | None = None
    ) -> str | None:
        """What a reference stands for; None where it says that there is nothing.

        Args:
            credential: The reference.
            folder: What a relative path is relative to.
            whose: The backend, or the setting, that it is of.
            refused: What it stood for before, and was refused: a command that printed it is asked again.

        Raises:
            GatewayError: As `resolve`.
        """
        if type(credential) is not CommandCredential:
            return self._stored(credential, folder, whose)
        if refused is not None:
            self._commands.refused(credential, folder, refused)
        try:
            secret = await self._commands.secret(credential, folder)
        except GatewayError as error:
            raise _no_credential(whose, error.message) from None
        return self._checked(secret, f"the output of the credential command {credential.command[0]}", whose)

    def _stored(self, credential: CredentialRef, folder: Path, whose: BackendProfile | str) -> str | None:
        """What a reference stands for that is no command."""
        match credential:
            case NoCredential():
                return None
            case EnvCredential(var=name):
                return self._checked(self._environment.get(name), f"the environment variable {name}", whose)
            case FileCredential(path=path):
                return self._checked(self._read(path, folder, whose), f"the credential file {path}", whose)
            case InlineCredential(token=token):
                return self._checked(token, "the inline token", whose)
        raise TypeError(f"{credential!r} is a command")

    def _checked(self, secret: str | None, source: str, whose: BackendProfile | str) -> str:
        """`secret` without the white space around it; the redactor learns it."""
        if secret is None:
            raise _no_credential(whose, f"{source} is missing")
        secret = secret.strip()
        if not secret:
            raise _no_credential(whose, f"{source} is blank")
        if not secret.isprintable():
            # In a variable, bytes that are no UTF-8 are halves of surrogate pairs (PEP 383).
            wrong = "is not UTF-8" if re.search("[\ud800-\udfff]", secret) else "holds control characters"
            raise _no_credential(whose, f"{source} {wrong}")
        self._redactor.learn(secret)
        return secret

    async def renewed(self, profile: BackendProfile, refused: ResolvedCredential) -> ResolvedCredential | None:
        """Another secret in place of one that the provider refused with a 401; None where there is none: only a command
        may have a newer one.

        Raises:
            GatewayError: As `resolve`.
        """
        credential = profile.backend.credential
        if not isinstance(credential, CommandCredential) or refused.secret is None:
            return None
        self._commands.refused(credential, profile.folder, refused.secret)
        newer = await self.resolve(profile)
        return None if newer.secret == refused.secret else newer

    async def close(self) -> None:
        """Stops commands that run."""
        await self._commands.close()

    def _read(self, path: str, folder: Path, whose: BackendProfile | str) -> str | None:
        """The file's text; None where there is no file. A relative path is looked up in systemd's folder of credentials
        (`LoadCredential=`) first, then beside the configuration.
        """
        places = [folder]
        if credentials_directory := self._environment.get("CREDENTIALS_DIRECTORY"):
            places.insert(0, Path(credentials_directory))
        for place in places:
            try:
                data = _read_regular_file(place / path)  # an absolute path stays itself
                if data is None:
                    raise _no_credential(whose, f"the credential file {path} is not a regular file")
                if len(data) > MAX_FILE_BYTES:
                    raise _no_credential(whose, f"the credential file {path} is larger than {MAX_FILE_BYTES} bytes")
                return data.decode()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _no_credential(whose, f"the credential file {path} is unreadable: {error.strerror}") from error
            except UnicodeDecodeError:
                raise _no_credential(whose, f"the credential file {path} is not UTF-8") from None
        return None


def _read_regular_file(path: Path) -> bytes | None:
    """The first `MAX_FILE_BYTES` + 1 bytes, or None where `path` is something else, which reading could block on."""
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    # Not blocking, should a FIFO have taken its place since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


_NOTHING = ResolvedCredential(None)


def _no_credential(whose: BackendProfile | str, why: str) -> GatewayError:
    if isinstance(whose, str):
        return GatewayError("authentication", f"no credential for {whose}: {why}")
    profile = whose
    return GatewayError("authentication", f"no credential for backend {profile.id!r}: {why}", backend_id=profile.id)
