"""Dialect `github_copilot_sdk`: the programs that GitHub ships, one running per backend.

`copilot.protocol` chooses between two of them (docs/copilot.md). Both are a `CopilotProtocol`: what differs is how a
request is asked; the program is run by a `Supervisor`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from ...canonical import CanonicalRequest, ResolvedCredential
from ...config.settings import BackendProfile, Capabilities, Copilot
from ...processes.supervisor import Supervisor
from ...telemetry.service import ProgramStatus
from ..base import BackendAdapter, Call, overridden
from .language_server import LanguageServerProtocol
from .sdk import SdkProtocol

DEFAULT = Copilot(command="copilot-language-server", args=["--stdio"])
"""What a configuration without `copilot` means: the language server, as npm installs it."""


class CopilotProtocol(Protocol):
    """One of the two programs, for one backend."""

    capabilities: ClassVar[Capabilities]

    @property
    def program(self) -> Supervisor[Any]:
        """The supervisor of its program."""

    def prepare(self, request: CanonicalRequest, model: str, secret: str | None) -> Call:
        """As `BackendAdapter.prepare`."""

    async def probe(self, secret: str | None) -> str:
        """As `BackendAdapter.probe`."""


class GitHubCopilotAdapter(BackendAdapter):
    """GitHub Copilot, by whichever of its two programs the configuration names."""

    def __init__(self, profile: BackendProfile) -> None:
        settings = profile.backend.copilot or DEFAULT
        self._protocol: CopilotProtocol = (
            LanguageServerProtocol(profile, settings)
            if settings.protocol == "language_server"
            else SdkProtocol(profile, settings)
        )
        self.capabilities = overridden(self._protocol.capabilities, profile)

    @property
    def program(self) -> ProgramStatus:
        return self._protocol.program.status

    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        return self._protocol.prepare(request, model, credential.secret)

    async def probe(self, credential: ResolvedCredential) -> str:
        return await self._protocol.probe(credential.secret)

    async def close(self) -> None:
        await self._protocol.program.close()
