"""The process between the daemon and a program that it starts: kills all of the program when the daemon dies.

Run as a file of its own by `child_process`, never imported by the daemon: `python -I -S child_guard.py DAEMON_PID
PROGRAM ARGUMENTS…`. It imports next to nothing, because each program that the daemon starts pays for it (measured:
20 ms and 10 MB, 4 of them its own).

Signals:

- SIGTERM, SIGINT, SIGHUP: passed on to the program's process group;
- SIGUSR1: kill all descendants now. The kernel also sends it when the daemon dies, by kill -9 too (PR_SET_PDEATHSIG).

It ends as the program ended: with its exit status, or by the same signal. Before that it kills every descendant that
is left, also those that moved to a session of their own, because it adopts orphans (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36  # <linux/prctl.h>
_PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_OURS = _PASSED_ON | {signal.SIGUSR1, signal.SIGCHLD}


def main() -> None:
    """Starts the program, waits for its end or for an order, and leaves nothing behind."""
    daemon, program, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[2:]
    prctl = ctypes.CDLL(None).prctl
    # uvloop leaks second copies of the program's pipes; they would keep a pipe open that the program has closed.
    os.closerange(3, 1 << 20)
    signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != daemon:
        return  # the daemon died before PR_SET_PDEATHSIG was set
    guard, child = os.getpid(), os.fork()
    if child == 0:
        _become(program, arguments, guard, prctl)
    # The guard's copies of the pipes would also keep them open.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    _watch(child)
    _end_like(_kill_all(child), prctl)


def _become(program: str, arguments: list[str], guard: int, prctl: ctypes._NamedFuncPointer) -> None:
    """In the forked child: executes the program, or writes the reason to standard error."""
    try:
        os.setsid()
        # If the guard is killed the program dies with it; the program's own children cannot be reached then.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and ignored signals survive exec
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(program, arguments, _environment())  # noqa: S606 -- the whole point
    except OSError as error:
        os.write(2, f"cannot run {program}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _environment() -> dict[bytes, bytes]:
    """The environment that this process was started with. `os.environ` may have an added LC_CTYPE (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 -- pathlib would double our start time
        pairs = [pair.partition(b"=") for pair in file.read().split(b"\0") if b"=" in pair]
    return {name: value for name, _, value in pairs}


def _watch(child: int) -> None:
    """Returns once the program has ended, unreaped yet, or is to be killed."""
    while True:
        order = signal.sigwait(_OURS)
        if order == signal.SIGUSR1:
            return
        if order in _PASSED_ON:
            _send(child, order)
            continue
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == child:
                return
            os.waitpid(ended.si_pid, 0)  # an adopted orphan


def _send(child: int, order: int) -> None:
    try:
        # The number cannot belong to another process: the program has not been reaped yet.
        os.killpg(child, order)
    except ProcessLookupError:
        os.kill(child, order)  # before its setsid()


def _kill_all(child: int) -> int:
    """Kills and reaps until no descendant is left. The program's wait status."""
    _send(child, signal.SIGKILL)
    status = 0
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == child:
            status = ended
        elif pid == 0:
            # The kernel's list may miss one while others end, so waiting without looking again could hang.
            time.sleep(0.002)


def _children() -> list[int]:
    try:
        with open("/proc/thread-self/children", "rb") as file:  # noqa: PTH123
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []  # a kernel without it: the process group is all that we can reach


def _end_like(status: int, prctl: ctypes._NamedFuncPointer) -> None:
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
    prctl(_PR_SET_DUMPABLE, 0)  # one core file is enough
    last = os.WTERMSIG(status)
    if last != signal.SIGKILL:
        signal.signal(last, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.kill(os.getpid(), last)


if __name__ == "__main__":
    main()
