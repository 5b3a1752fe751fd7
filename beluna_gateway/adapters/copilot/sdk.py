"""`copilot.protocol` `sdk`: chat sessions of the Copilot CLI, one for each request.

We start the program, not the SDK, so that it lives and dies as every child of the daemon does (`child_process`), and
the SDK connects to it: on a loopback port that the program chooses, with a token of 256 bits that only the two know.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, ClassVar

from ...canonical import BackendRawEvent, CanonicalRequest, Completed, OutputTextDelta, ReasoningDelta
from ...config.settings import BackendProfile, Capabilities, Copilot
from ...errors import GatewayError, unsupported
from ...processes.child_process import ChildProcess, clean_environment, configured_program
from ...processes.supervisor import Run, Supervisor
from ..base import Call, Emit, SilenceTimer
from .cli import SESSION_FOLDER, CopilotCli, Turn, import_sdk, renamed
from .turns import reject_unsupported

_PORT = re.compile(rb"listening on port (\d+)")

# From the loss of the connection to the news that the program has ended.
_LOSS_SECONDS = 1.5


class SdkProtocol:
    """What the adapter needs of `copilot.protocol` `sdk`, for one backend."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        json_mode=False, vision=False, json_schema_mode=False, reasoning=False
    )

    def __init__(self, profile: BackendProfile, settings: Copilot) -> None:
        self.profile = profile
        self.settings = settings
        self.program: Supervisor[CopilotCli] = Supervisor(
            self._launch, name=f"the Copilot CLI {settings.command!r}", idle_stop_ms=settings.idle_stop_ms
        )

    def prepare(self, request: CanonicalRequest, model: str, secret: str | None) -> Call:
        provider = self.settings.provider
        reject_unsupported(request, brings_a_provider=provider is not None)
        fixed = None if provider is None else provider.model_id
        if fixed is not None and request.model not in (None, fixed, self.profile.default_model):
            raise unsupported(f"model: this backend's copilot.provider.model_id fixes it to {fixed!r}")
        self._take(secret)
        return _Question(self, request, model, self._provider(request, secret))

    async def probe(self, secret: str | None) -> str:
        self._take(secret)
        async with self.program.use() as run:
            if self.settings.provider is not None:
                return f"the Copilot CLI runs, with {self.settings.provider.base_url} as its model's provider"
            login = await run.peer.login()
        if login is None:
            raise _not_signed_in()
        return f"the Copilot CLI runs and is signed in ({login})"

    def _take(self, secret: str | None) -> None:
        """With a provider, the credential is the provider's key, and is not put into the program's environment."""
        if self.settings.provider is None:
            self.program.take_secret(secret)
        else:
            self.program.keep_quiet_about(secret)

    def _provider(self, request: CanonicalRequest, secret: str | None) -> dict[str, Any] | None:
        if self.settings.provider is None:
            return None
        provider: dict[str, Any] = self.settings.provider.model_dump(exclude_none=True)
        if secret is not None:
            provider["api_key"] = secret
        if request.max_output_tokens is not None:
            provider["max_output_tokens"] = request.max_output_tokens
        return provider

    @asynccontextmanager
    async def _launch(self, secret: str | None) -> AsyncIterator[CopilotCli]:
        command = configured_program(self.settings.command, self.profile.folder, "copilot.command")
        sdk = await asyncio.to_thread(import_sdk)
        token = secrets.token_urlsafe(32)
        environment = {"COPILOT_AUTO_UPDATE": "false", "COPILOT_CONNECTION_TOKEN": token}
        async with AsyncExitStack() as stack:
            if secret is not None:
                environment["COPILOT_GITHUB_TOKEN"] = secret
            if secret is not None or self.settings.provider is not None:
                # Without the user's login the CLI gets a temporary home, deleted with it.
                home = await asyncio.to_thread(tempfile.mkdtemp, prefix="beluna-copilot-")
                stack.push_async_callback(asyncio.to_thread, shutil.rmtree, home, ignore_errors=True)
                environment |= {"COPILOT_HOME": home, "COPILOT_DISABLE_KEYTAR": "1"}
            child = ChildProcess(
                command,
                [*self.settings.args, "--headless", "--no-auto-update", "--log-level", "error"],
                env=clean_environment(environment),
                cwd=self.profile.folder.absolute(),
                stdout=True,
            )
            await stack.enter_async_context(child)
            port = await self._port(child)
            with renamed("connecting to it"):
                client = sdk.CopilotClient(
                    connection=sdk.RuntimeConnection.for_uri(f"127.0.0.1:{port}", connection_token=token),
                    session_fs={
                        "initial_working_directory": SESSION_FOLDER,
                        "session_state_path": SESSION_FOLDER,
                        "conventions": "posix",
                    },
                )
                # Not `stop`: it waits a second for its reading thread with the event loop standing still.
                stack.push_async_callback(_disconnect, client)
                await self._connect(client, child)
            yield CopilotCli(child, client, sdk, self.program.output_ended)

    async def _connect(self, client: Any, child: ChildProcess) -> None:
        """Connects to the program, or says that it has ended: what has taken its port would let us wait."""
        starting = asyncio.ensure_future(client.start())
        ending = asyncio.ensure_future(child.wait())
        try:
            await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise await self.program.output_ended(child)
            starting.result()
        finally:
            starting.cancel()
            ending.cancel()
            await asyncio.gather(starting, ending, return_exceptions=True)

    async def _port(self, child: ChildProcess) -> int:
        """The port that the program listens on, from its first lines of output."""
        said = b""
        while (match := _PORT.search(said)) is None:
            chunk = await child.stdout.read(4096)
            said = (said + chunk)[-4096:]
            if not chunk:
                raise await self.program.output_ended(child)
        return int(match[1])


async def _disconnect(client: Any) -> None:
    with suppress(Exception):
        await client.force_stop()


class _Question:
    """One request."""

    def __init__(
        self, protocol: SdkProtocol, request: CanonicalRequest, model: str, provider: dict[str, Any] | None
    ) -> None:
        self._protocol = protocol
        self._request = request
        self._model = model
        self._provider = provider

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        timer.connecting()
        program = self._protocol.program
        async with program.use() as run:
            timer.connected()
            turn = Turn(self._protocol.profile.reliability.max_event_bytes)
            turns = run.peer.turns
            turns.add(turn)
            beginning = asyncio.create_task(self._begin(run, turn), name="session of the Copilot CLI")
            try:
                await self._answer(turn, emit, timer)
            finally:
                turns.discard(turn)
                # The session ends in the background: the client does not wait for it.
                program.confirm(run, _end_session(run.peer, beginning))
            program.served()

    async def _begin(self, run: Run[CopilotCli], turn: Turn) -> Any:
        """The session, or None where there is none. Where something went wrong, `turn` knows it."""
        cli = run.peer
        login: str | None = None
        session: Any = None
        try:
            if self._provider is None:
                login = await cli.login()
                if login is None and run.secret is None:
                    raise _not_signed_in()
            session = await cli.open(turn, self._request, self._model, self._provider)
            await cli.ask(session)
        except GatewayError as failure:
            if self._provider is None and login is None and failure.provider_code is not None:
                # A token that GitHub does not accept is reported in words only, with the code of an internal error.
                failure = failure.replace(kind="authentication", retryable=False)
            if failure.kind == "backend_transient" and failure.provider_code is None:
                # The connection was lost. If the program has ended, its exit status and standard error say more.
                await asyncio.wait([run.stopping], timeout=_LOSS_SECONDS)
                run.stop(failure)
            turn.fail(failure)
        return session

    async def _answer(self, turn: Turn, emit: Emit, timer: SilenceTimer) -> None:
        held: list[BackendRawEvent] = []
        while True:
            events = await turn.news()
            if not events:
                continue
            timer.progressed()
            ended = isinstance(events[-1], Completed)
            if not self._request.stream:
                held += events
                if not ended:
                    continue
                events = _joined(held)
            emit(events)
            if ended:
                return
            if emit.blocked:
                timer.suspended()
                await emit.drained()
                timer.progressed()


async def _end_session(cli: CopilotCli, beginning: asyncio.Task[Any]) -> None:
    session = await beginning
    if session is not None:
        with suppress(GatewayError):
            await cli.end(session)


def _joined(events: list[BackendRawEvent]) -> list[BackendRawEvent]:
    """`events` with adjacent deltas of one kind joined."""
    joined: list[BackendRawEvent] = []
    for event in events:
        match joined[-1:], event:
            case ([OutputTextDelta() as text], OutputTextDelta(delta)):
                text.delta += delta
            case ([ReasoningDelta() as reasoning], ReasoningDelta(delta)):
                reasoning.delta += delta
            case _:
                joined.append(event)
    return joined


def _not_signed_in() -> GatewayError:
    return GatewayError(
        "authentication",
        "the Copilot CLI is not signed in to GitHub: run `copilot login` once, as the user who runs the daemon, give "
        "this backend a `credential` with a GitHub token, or bring a model of your own with copilot.provider "
        "(docs/copilot.md)",
    )
