"""Programs that the daemon starts; all of these are real."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import uvloop

from beluna_gateway.errors import GatewayError
from beluna_gateway.processes import child_process
from beluna_gateway.processes.child_process import ChildProcess, clean_environment, find_program


def both_loops(test):
    """Runs `test` on both loops, since each starts and reaps programs in its own way."""

    @pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def on_a_loop(loop_factory, **fixtures):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**fixtures))

    own = inspect.signature(test).parameters
    parameters = [inspect.signature(on_a_loop).parameters["loop_factory"], *own.values()]
    on_a_loop.__signature__ = inspect.Signature(parameters)
    on_a_loop.__doc__ = test.__doc__
    return on_a_loop


def python(script: str, *args: str, **options) -> ChildProcess:
    options.setdefault("env", clean_environment({}))
    return ChildProcess(sys.executable, ["-c", script, *args], **options)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


async def gone(pid: int) -> bool:
    """Whether `pid` disappears, rather than stays for good."""
    deadline = time.monotonic() + 10
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def line(child: ChildProcess) -> str:
    async with asyncio.timeout(20):
        return (await child.stdout.readline()).decode().strip()


# A child, and its own child in a session of its own; prints both process ids. Ends when its input does.
FAMILY = """
import os, subprocess, sys
far = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), far.pid, flush=True)
sys.stdin.read() or sys.exit(4)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


# --- talking ---


@both_loops
async def test_pipes():
    """What is written to stdin reaches the program, and its answer and its end come back."""
    async with python("import sys; print(sys.stdin.read().upper())", stdin=True, stdout=True) as child:
        child.stdin.write(b"hello")
        child.stdin.close()

        assert await child.stdout.read() == b"HELLO\n"
        assert await child.wait() == 0
        assert child.ending == "exit status 0"


@both_loops
async def test_no_pipes():
    """Without pipes standard input is empty and standard output goes nowhere."""
    async with python("import sys; print('x' * 1_000_000); sys.exit(len(sys.stdin.read()))") as child:
        assert await child.wait() == 0


@both_loops
async def test_end_of_output_is_seen_while_the_program_lives():
    """A program that closes its standard output is seen to do so at once."""
    async with python("import os, time; os.close(1); time.sleep(600)", stdout=True) as child:
        async with asyncio.timeout(20):
            assert await child.stdout.read() == b""
        assert child.returncode is None
        assert child.ending == "still running"


@both_loops
async def test_exact_environment():
    """The program's environment is what was given, to the letter."""
    env = {"ONE": "1", "PATH": "/usr/bin"}
    script = "import sys; print(open('/proc/self/environ').read().replace('\\0', ' '))"
    async with ChildProcess(sys.executable, ["-I", "-c", script], env=env, stdout=True) as child:
        assert await line(child) == "ONE=1 PATH=/usr/bin"


@both_loops
async def test_signals_are_as_new():
    """The program inherits neither the signals that Python ignores nor those that the guard blocks."""
    arguments = ["-E", "Sig(Blk|Ign)", "/proc/self/status"]
    async with ChildProcess(find_program("grep"), arguments, env={}, stdout=True) as child:
        blocked, ignored = (await child.stdout.read()).decode().splitlines()

    assert int(blocked.split()[1], 16) == 0
    # Not all: what our own parent ignores is ignored by all its descendants.
    assert [name for name in (signal.SIGPIPE, signal.SIGXFSZ) if int(ignored.split()[1], 16) >> (name - 1) & 1] == []


@both_loops
async def test_working_directory(tmp_path):
    """The program runs where it is told to."""
    async with python("import os; print(os.getcwd())", cwd=tmp_path, stdout=True) as child:
        assert await line(child) == str(tmp_path)


@both_loops
async def test_stderr_flood():
    """A flood on standard error never blocks the program; its last words are kept, and no more than asked for."""
    script = "import sys; sys.stderr.write('x' * 20_000_000 + ' last words'); sys.exit(3)"
    async with python(script, stderr_tail=1000) as child:
        async with asyncio.timeout(30):
            assert await child.wait() == 3
        assert child.stderr_tail.endswith("xxx last words")
        assert len(child.stderr_tail) == 1000


@both_loops
async def test_many_wait():
    """Any number of tasks hear of the end, also those that ask later."""
    async with python("import sys; sys.exit(7)") as child:
        assert await asyncio.gather(*(child.wait() for _ in range(5))) == [7] * 5
        assert await child.wait() == 7


# --- ending ---


@both_loops
async def test_leaving_the_block_stops_it():
    """When the block is left, the program and all its descendants are gone, also those in sessions of their own."""
    async with python(FAMILY, stdin=True, stdout=True) as child:
        pids = [child.pid, *map(int, (await line(child)).split())]
        assert all(map(alive, pids))

    assert [pid for pid in pids if alive(pid)] == []
    assert child.returncode == -signal.SIGTERM


@both_loops
async def test_descendants_go_with_the_program():
    """When a program ends by itself, what it left running is ended too."""
    async with python(FAMILY, stdin=True, stdout=True) as child:
        _, far = map(int, (await line(child)).split())
        child.stdin.close()
        await child.wait()

        assert not alive(far)


@both_loops
async def test_descendants_of_a_deaf_program_go_with_it():
    """A program that ignores SIGTERM is killed together with what it started in other sessions."""
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FAMILY
    async with python(deaf, stdin=True, stdout=True, stop_after=0.05) as child:
        pids = [int(pid) for pid in (await line(child)).split()]

    assert [await gone(pid) for pid in pids] == [True, True]


@both_loops
async def test_polite_program_says_goodbye():
    """SIGTERM comes first: a program that handles it ends in its own way."""
    script = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("ready", flush=True)
time.sleep(600)
"""
    async with python(script, stdout=True) as child:
        await line(child)

    assert child.returncode == 5


@both_loops
async def test_deaf_to_sigterm():
    """A program that ignores SIGTERM is killed after `stop_after`."""
    async with python(DEAF, stdout=True, stop_after=0.05) as child:
        await line(child)
        pid = child.pid

    assert child.returncode == -signal.SIGKILL
    assert child.ending == "killed by SIGKILL"
    assert not alive(pid)


@both_loops
async def test_cancelled_while_stopping():
    """A task cancelled while it waits for a deaf program kills it at once and leaves nothing behind."""
    child = python(DEAF, stdout=True, stop_after=600)
    await child.__aenter__()
    await line(child)
    stopping = asyncio.create_task(child.stop())
    await asyncio.sleep(0.05)
    stopping.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await stopping

    assert child.returncode == -signal.SIGKILL


@both_loops
async def test_cancelled_while_starting():
    """A start that is cancelled at any moment leaves no program behind."""
    for turns in range(6):
        child = python("import time; time.sleep(600)")
        starting = asyncio.create_task(child.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert turns == 0 or child.returncode is not None


@both_loops
async def test_stop_twice():
    """Stopping again, or twice at the same time, is no mistake."""
    async with python("import time; time.sleep(600)") as child:
        await asyncio.gather(child.stop(), child.stop())
        await child.stop()

    assert child.returncode == -signal.SIGTERM


@both_loops
async def test_unread_output():
    """Output that nobody has read does not keep a pipe open after the end."""
    async with python("print('x' * 1_000_000)", stdout=True, limit=1024):
        await asyncio.sleep(0.2)


@both_loops
async def test_guard_killed():
    """Should somebody kill the guard, the program goes with it."""
    async with python(DEAF, stdout=True) as child:
        await line(child)
        program = only_child(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        assert await gone(program)
        assert await child.wait() == -signal.SIGKILL


@both_loops
async def test_guard_hangs():
    """A guard that does not react is killed in the end, and the program goes with it."""
    async with python(DEAF, stdout=True, stop_after=0.02) as child:
        await line(child)
        program = only_child(child.pid)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(child_process, "_KILL_WAIT_SECONDS", 0.5)
            os.kill(child.pid, signal.SIGSTOP)
            await child.stop()

    assert await gone(program)


@both_loops
async def test_crash_is_named():
    """A program that dies by a signal ends its guard in the same way."""
    async with python("import os; os.abort()") as child:
        await child.wait()

        assert child.ending == "killed by SIGABRT"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_daemon_killed(loop):
    """After kill -9 of the daemon its programs are gone, deaf ones and far grandchildren included."""
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FAMILY
    daemon = f"""
import asyncio, sys, uvloop
from beluna_gateway.processes.child_process import ChildProcess
async def main():
    async with ChildProcess(sys.executable, ["-c", {program!r}], env={{}}, stdin=True, stdout=True) as child:
        print((await child.stdout.readline()).decode(), flush=True)
        await asyncio.sleep(600)
{loop}.run(main())
"""

    async def scene() -> None:
        async with python(daemon, stdout=True, env=clean_environment({"PYTHONPATH": str(Path.cwd())})) as parent:
            pids = list(map(int, (await line(parent)).split()))
            assert [alive(pid) for pid in pids] == [True, True]
            # Our own guard sleeps meanwhile: what is seen to die here dies by the inner one.
            os.kill(parent.pid, signal.SIGSTOP)
            os.kill(only_child(parent.pid), signal.SIGKILL)
            dead = [await gone(pid) for pid in pids]
            os.kill(parent.pid, signal.SIGCONT)
            assert dead == [True, True]

    asyncio.run(scene())


# --- not starting ---


@both_loops
async def test_cannot_be_run(tmp_path):
    """A file that the system cannot run ends with status 127 and the reason in words."""
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    async with ChildProcess(str(broken), env={}) as child:
        assert await child.wait() == 127
        assert "No such file" in child.stderr_tail


@both_loops
async def test_no_folder_to_start_in(tmp_path):
    """A working directory that does not exist is a failure to start, not a crash."""
    with pytest.raises(GatewayError, match="cannot start") as caught:
        await python("", cwd=tmp_path / "none").__aenter__()

    assert caught.value.kind == "backend_transient"


@both_loops
async def test_outside_of_its_block():
    """Asking a program that was never started is a mistake in the program that asks."""
    with pytest.raises(RuntimeError, match="async with"):
        await python("").wait()


def test_clean_environment(monkeypatch):
    """Harmless variables of ours are passed on, others (which may hold keys) never, and what is given wins."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")

    env = clean_environment({"LANG": "C.UTF-8", "OWN": "1"})

    assert env["LANG"] == "C.UTF-8"
    assert env["OWN"] == "1"
    assert env["LC_TIME"] == "C"
    assert env["PATH"] == os.environ["PATH"]
    assert "OPENAI_API_KEY" not in env


def test_find_program(tmp_path, monkeypatch):
    """A bare name is looked up beside our Python first, then in PATH; a path is taken as it is."""
    for folder in ("beside", "path"):
        (tmp_path / folder).mkdir()
        for name in ("both", folder):
            (tmp_path / folder / name).write_text("#!/bin/sh\n")
            (tmp_path / folder / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))

    assert find_program("both") == str(tmp_path / "beside" / "both")
    assert find_program("path") == str(tmp_path / "path" / "path")
    assert find_program(str(tmp_path / "path" / "both")) == str(tmp_path / "path" / "both")


def test_program_missing(tmp_path):
    """A program that is not there, or may not be run, is a permanent failure that names it."""
    (tmp_path / "text").write_text("")
    for command, words in (
        ("no-such-program", "'no-such-program' is not installed"),
        (str(tmp_path / "none"), "does not exist"),
        (str(tmp_path / "text"), "is not executable"),
        (str(tmp_path), "is not executable"),
    ):
        with pytest.raises(GatewayError, match=words) as caught:
            find_program(command)
        assert caught.value.kind == "backend_permanent"
        assert not caught.value.retryable
