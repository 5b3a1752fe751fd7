"""Runs a command under what a systemd unit says about system calls, without systemd: libseccomp gets the same lists.

Run as ``python sandbox.py UNIT COMMAND…``. Reads `SystemCallFilter=`, `RestrictAddressFamilies=` and
`MemoryDenyWriteExecute=`; what they refuse fails with EPERM (`SystemCallErrorNumber=`), for the command's children too.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
EQUAL, MASKED_EQUAL = 4, 7  # SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ
WRITE, EXECUTE, SHM_EXEC = 2, 4, 0o100000


class Condition(ctypes.Structure):
    """`struct scmp_arg_cmp` of <seccomp.h>."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def settings(unit: Path) -> dict[str, list[str]]:
    """The lines of `unit` by key, each key's values in order. Continued lines are not understood, and not used."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and key.isalpha():
            found.setdefault(key, []).append(value)
    return found


def system_calls(words: str) -> set[str]:
    """The names behind ``@group name …``, as systemd-analyze lists them."""
    names: set[str] = set()
    for word in words.split():
        if not word.startswith("@"):
            names.add(word)
            continue
        listing = subprocess.run(
            ["systemd-analyze", "--no-pager", "syscall-filter", word], check=True, capture_output=True, text=True
        )
        members = [line.strip() for line in listing.stdout.splitlines()[1:]]
        names |= system_calls(" ".join(member for member in members if not member.startswith("#")))
    return names


def allowed(filters: list[str]) -> set[str]:
    """What a unit's `SystemCallFilter=` lines leave over: the first one allows, ``~`` takes away."""
    names = system_calls("@default " + filters[0])
    for words in filters[1:]:
        names = names - system_calls(words[1:]) if words.startswith("~") else names | system_calls(words)
    return names


def confine(unit: Path) -> None:
    """From now on this process and all its children have only what `unit` allows."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    seccomp.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    seccomp.seccomp_load.argtypes = [ctypes.c_void_p]
    context = seccomp.seccomp_init(REFUSE)

    def allow(name: str, *conditions: Condition) -> None:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # of another architecture, or newer than this libseccomp
        array = (Condition * len(conditions))(*conditions)
        if seccomp.seccomp_rule_add_array(context, ALLOW, number, len(conditions), array):
            raise OSError(f"libseccomp does not take the rule for {name}")

    says = settings(unit)
    names = allowed(says["SystemCallFilter"])
    if says["MemoryDenyWriteExecute"][-1] == "yes":
        names -= {"mmap", "mprotect", "pkey_mprotect", "shmat"}
        for protection in (0, WRITE, EXECUTE):
            allow("mmap", Condition(2, MASKED_EQUAL, WRITE | EXECUTE, protection))
        allow("mprotect", Condition(2, MASKED_EQUAL, EXECUTE, 0))
        allow("pkey_mprotect", Condition(2, MASKED_EQUAL, EXECUTE, 0))
        allow("shmat", Condition(2, MASKED_EQUAL, SHM_EXEC, 0))
    names.discard("socket")
    for family in says["RestrictAddressFamilies"][-1].split():
        allow("socket", Condition(0, EQUAL, getattr(socket, family), 0))
    for name in sorted(names):
        allow(name)
    if seccomp.seccomp_load(context):
        raise OSError("this kernel does not take the filter")


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
