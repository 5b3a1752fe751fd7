"""The server of `launch`: small real programs that listen on a Unix socket."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from beluna_gateway.config.settings import Launch
from beluna_gateway.errors import GatewayError
from beluna_gateway.processes import model_server
from beluna_gateway.processes.model_server import ModelServer
from beluna_gateway.processes.supervisor import RestartPolicy, Supervisor

SERVER = """
import os, socket, sys, time
folder = sys.argv[1]
with open(folder + "/starts", "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(float(sys.argv[2]))
server = socket.socket(socket.AF_UNIX)
if os.path.exists(folder + "/socket"):
    os.unlink(folder + "/socket")
server.bind(folder + "/socket")
server.listen()
while True:
    server.accept()[0].close()
"""


class Stage:
    """A folder where a fake server runs, and how one asks it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[ModelServer] = []

    def server(
        self, script: str = SERVER, delay: float = 0.0, *, python: str = sys.executable, **options
    ) -> ModelServer:
        settings = {key: options.pop(key) for key in list(options) if key in Launch.model_fields}
        launch = Launch(command=python, args=["-I", "-S", "-c", script, str(self.folder), str(delay)], **settings)
        policy = RestartPolicy(**{"first_seconds": 0.01, **options})
        server = ModelServer(launch, "unix:socket", self.probe, folder=self.folder, policy=policy)
        self.servers.append(server)
        return server

    async def probe(self) -> bool:
        _, writer = await asyncio.open_unix_connection(self.folder / "socket")
        writer.close()
        await writer.wait_closed()
        return True

    @property
    def answers(self) -> bool:
        return any(self.alive(pid) for pid in self.starts)

    @property
    def starts(self) -> list[int]:
        """The process ids of all starts so far."""
        file = self.folder / "starts"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def alive(self, pid: int) -> bool:
        return Path(f"/proc/{pid}").exists()


@pytest.fixture
async def stage(tmp_path):
    """A stage; whatever was started on it is gone afterwards, and no task is left."""
    stage = Stage(tmp_path)
    yield stage
    for server in stage.servers:
        await server.close()
    assert not stage.answers
    assert [task for task in asyncio.all_tasks() if "the model server" in task.get_name()] == []


async def ready(server: ModelServer) -> None:
    """A request that ends as soon as the server answers."""
    async with server.use():
        pass


async def until(condition, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_ready(stage):
    """`ready` starts the server and returns once it answers; later calls find it running."""
    server = stage.server(delay=0.1)
    await ready(server)
    assert await stage.probe()
    await ready(server)

    assert len(stage.starts) == 1


async def test_one_start_for_all(stage):
    """Callers at the same time share one start, and one of them going away does not end it for the others."""
    server = stage.server(delay=0.2)
    callers = [asyncio.create_task(ready(server)) for _ in range(20)]
    await until(lambda: stage.starts)
    for impatient in callers[:10]:
        impatient.cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(result) for result in results] == [asyncio.CancelledError] * 10 + [type(None)] * 10
    assert len(stage.starts) == 1


async def test_start_goes_on_without_callers(stage):
    """A start whose only caller went away goes on: the next one finds it further."""
    server = stage.server(delay=0.2)
    caller = asyncio.create_task(ready(server))
    await until(lambda: stage.starts)
    caller.cancel()
    await asyncio.wait([caller])
    await ready(server)

    assert len(stage.starts) == 1


async def test_started_with_the_daemon(stage):
    """`start` begins without waiting, where the server is to be kept."""
    await stage.server().start()

    await until(lambda: stage.starts)


async def test_not_started_with_the_daemon(stage):
    """`start` leaves a server that stops when idle to the first request."""
    server = stage.server(idle_stop_ms=60_000)
    await server.start()
    await asyncio.sleep(0.1)
    assert stage.starts == []
    await ready(server)

    assert len(stage.starts) == 1


async def test_somebody_elses_server(stage, monkeypatch):
    """A server that already answers is used, and no second one is started; when it goes away, ours starts."""
    other = await asyncio.start_unix_server(lambda _, writer: writer.close(), stage.folder / "socket")
    monkeypatch.setattr(model_server, "_FOREIGN_SECONDS", 0.05)
    server = stage.server()
    for pause in (0.0, 0.0, 0.1):  # taken for granted at first, then asked again
        await asyncio.sleep(pause)
        await ready(server)
    assert stage.starts == []

    other.close()
    await other.wait_closed()
    await asyncio.sleep(0.1)
    await ready(server)

    assert len(stage.starts) == 1


# --- failures ---


async def test_ends_early(stage):
    """A program that ends before it answers is a transient failure, with its status and its last words."""
    server = stage.server("import sys; sys.exit('no weights found')")
    with pytest.raises(
        GatewayError, match=r"exited before it was ready \(exit status 1\); it said: no weights found"
    ) as caught:
        await ready(server)

    assert (caught.value.kind, caught.value.retryable) == ("backend_transient", True)


async def test_a_bug_in_a_start():
    """Is told to whoever waits, and not taken for the daemon's end; the log has no local variables of it."""

    @asynccontextmanager
    async def launch(secret: str | None) -> AsyncIterator[Any]:
        raise ValueError("a bug")
        yield  # type: ignore[unreachable]  # makes it a generator

    supervisor: Supervisor[Any] = Supervisor(launch, name="the program", idle_stop_ms=None)
    with capture_logs() as logged:
        with pytest.raises(GatewayError, match="a bug in the gateway: ValueError") as caught:
            async with supervisor.use():
                pass
        await supervisor.close()

    assert (caught.value.kind, caught.value.retryable) == ("internal", False)
    (line,) = (line for line in logged if line["log_level"] == "error")
    assert line["exception"].endswith("ValueError: a bug\n")


async def test_never_ready(stage):
    """A program that does not answer within `ready_timeout_ms` is a transient failure and is stopped."""
    server = stage.server(delay=600, ready_timeout_ms=300)
    with pytest.raises(GatewayError, match=r"within 300 ms \(launch.ready_timeout_ms\)") as caught:
        await ready(server)

    assert (caught.value.kind, caught.value.retryable) == ("backend_transient", True)
    assert not stage.answers


async def test_hung_probe(stage, monkeypatch):
    """A server that accepts and never answers is not ready either."""

    monkeypatch.setattr(model_server, "_PROBE_SECONDS", 0.1)

    async def silence() -> bool:
        await asyncio.sleep(600)
        return True

    server = stage.server(ready_timeout_ms=200)
    server._probe = silence
    with pytest.raises(GatewayError, match="did not answer"):
        async with asyncio.timeout(20):
            await ready(server)


async def test_missing_program(stage):
    """A program that is not installed is a permanent failure that names it; nothing is waited for."""
    server = stage.server(python="no-such-server")
    for _ in range(2):
        with pytest.raises(
            GatewayError, match=r"launch.command: the program 'no-such-server' is not installed"
        ) as caught:
            await ready(server)
        assert (caught.value.kind, caught.value.retryable) == ("backend_permanent", False)


async def test_relative_command(stage):
    """A command with a slash is looked up in the config file's folder, which is where it runs."""
    (stage.folder / "bin").mkdir()
    script = stage.folder / "bin" / "serve"
    script.write_text(f'#!/bin/sh\necho "$PWD" > where\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    await ready(stage.server(python="bin/serve"))

    assert (stage.folder / "where").read_text().strip() == str(stage.folder)


async def test_environment(stage, monkeypatch):
    """The program gets `launch.env`, not our secrets; and what it says never shows a value of `launch.env`."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-backend")
    script = "import os, sys; sys.exit(f\"key {os.environ['KEY']}, other {os.environ.get('OPENAI_API_KEY')}\")"
    server = stage.server(script, env={"KEY": "canary-of-launch"})
    with pytest.raises(GatewayError, match="it said: key <redacted>, other None"):
        await ready(server)


async def test_crash(stage):
    """A crash is noticed at once: nobody is let through to the dead server, and a kept one is started again."""
    server = stage.server()
    await ready(server)
    os.kill(stage.starts[0], signal.SIGKILL)
    await until(lambda: len(stage.starts) == 2)
    await ready(server)

    assert await stage.probe()


async def test_failed_start_of_a_kept_server(stage):
    """A server that is to be kept is started until it runs, also where nobody asks for it."""
    script = f"""
import os, sys
with open(sys.argv[1] + "/starts", "a+") as file:
    file.seek(0)
    if len(file.readlines()) < 2:
        file.write(f"{{os.getpid()}}\\n")
        sys.exit("not yet")
{SERVER}"""
    await stage.server(script).start()
    await until((stage.folder / "socket").exists)

    assert len(stage.starts) == 3


async def test_system_refuses(stage, monkeypatch):
    """A start that the system itself refuses counts as a failure like any other: the next one waits."""
    server = stage.server(first_seconds=60.0, idle_stop_ms=600_000)
    monkeypatch.setattr(server, "_folder", stage.folder / "none")
    for _ in range(2):
        with pytest.raises(GatewayError, match="cannot start"):
            await ready(server)
    with pytest.raises(GatewayError, match="after failure 2 in a row: cannot start"):
        await ready(server)


async def test_crash_of_an_idle_server(stage):
    """A server that stops when idle is started again after a crash by the next request only."""
    server = stage.server(idle_stop_ms=600_000)
    await ready(server)
    os.kill(stage.starts[0], signal.SIGKILL)
    await until(lambda: not stage.answers)
    await asyncio.sleep(0.2)
    assert len(stage.starts) == 1
    await ready(server)

    assert len(stage.starts) == 2


async def test_backoff(stage):
    """The first failure is not waited for, then each start waits longer; a long wait is told, not waited for."""
    server = stage.server("import sys; sys.exit('broken')", first_seconds=1.5, idle_stop_ms=600_000)
    for _ in range(3):  # at once, at once, and after 1.5 s
        with pytest.raises(GatewayError, match="exited before it was ready") as failed:
            await ready(server)
        assert failed.value.retry_after_ms is None
    with pytest.raises(GatewayError, match=r"after failure 3 in a row: .*it said: broken") as refused:
        await ready(server)

    assert refused.value.retry_after_ms is not None
    assert 2000 < refused.value.retry_after_ms <= 3001
    assert refused.value.retryable


async def test_a_kept_server_that_fails_is_told_too(stage):
    """A request that comes while a kept server waits for its next start is refused with the time of that."""
    server = stage.server("import sys; sys.exit('broken')", first_seconds=60.0)
    await server.start()
    await until(lambda: server._supervisor._failures == 2)
    with pytest.raises(GatewayError, match="after failure 2 in a row") as refused:
        await ready(server)

    assert refused.value.retry_after_ms is not None
    assert refused.value.retry_after_ms > 2000


async def test_backoff_is_capped(stage):
    """However often it fails, the wait has an end; a server that was healthy for a while starts anew."""
    policy = RestartPolicy(first_seconds=0.5, max_seconds=30.0)
    assert [policy.wait_seconds(failures) for failures in (0, 1, 2, 3, 8, 9, 10_000)] == [0, 0, 0.5, 1, 30, 30, 30]

    healthy = stage.server(healthy_seconds=0.0)
    healthy._supervisor._failures = 20
    await ready(healthy)
    os.kill(stage.starts[0], signal.SIGKILL)
    await until(lambda: len(stage.starts) == 2)
    assert healthy._supervisor._failures == 1


# --- idleness and the end ---


async def test_idle_stop(stage):
    """Unused for `idle_stop_ms` it is stopped, never while a request is under way; the next request starts it again."""
    server = stage.server(idle_stop_ms=50)
    async with server.use():
        await ready(server)
        async with server.use():
            pass
        await asyncio.sleep(0.2)
        assert stage.answers
    await until(lambda: not stage.answers)
    for _ in range(3):  # the second and third keep it from being stopped
        async with server.use():
            await ready(server)
            assert await stage.probe()

    assert len(stage.starts) == 2


async def test_used_again_while_it_stops(stage):
    """A request that comes while the idle server is being stopped waits for its end and gets a new one."""
    slow = SERVER.replace("import os,", "import signal, os,").replace(
        "folder =", "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), os._exit(0)))\nfolder ="
    )
    server = stage.server(slow, idle_stop_ms=20)
    async with server.use():
        await ready(server)
    await asyncio.sleep(0.1)
    assert stage.alive(stage.starts[0])
    async with server.use():
        await ready(server)
        assert await stage.probe()

    assert len(stage.starts) == 2
    assert not stage.alive(stage.starts[0])


async def test_close_while_starting(stage):
    """Closing ends a start that is under way; whoever waits for it gets an error, not a cancellation."""
    server = stage.server(delay=600)
    caller = asyncio.create_task(ready(server))
    await until(lambda: stage.starts)
    await server.close()
    with pytest.raises(GatewayError, match="the daemon is stopping"):
        await caller
    with pytest.raises(GatewayError, match="the daemon is stopping"):
        await ready(server)


async def test_close_right_after_start(stage):
    """Closing before the start's first step ends it as well."""
    server = stage.server()
    await server.start()
    await server.close()

    assert stage.starts == []


async def test_close_while_idle_stop_is_near(stage):
    """Closing leaves no timer behind."""
    server = stage.server(idle_stop_ms=60_000)
    async with server.use():
        await ready(server)
    await server.close()
    await server.close()

    assert not stage.answers
