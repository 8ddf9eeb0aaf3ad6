"""Runs a program with what its unit forbids: system calls, and memory that is written and executed.

    python hardened.py UNIT PROGRAM [ARGUMENT…]

What needs systemd itself is left out: users, capabilities, and what is seen of the file system.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

UNITS = Path(__file__).parents[1] / "deploy/systemd"

_PR_SET_MDWE = 65
"""prctl(2), since Linux 6.3; systemd forbids the same by filters on mmap and mprotect."""
_REFUSE_EXEC_GAIN = 1
_ALLOW = 0x7FFF0000
_EPERM = 0x00050001
"""seccomp_init(3): fail with errno 1."""
_NO_SUCH_CALL = -1


def main(unit: str, program: str, *arguments: str) -> None:
    """Forbid, and become the program."""
    lines = Path(unit).read_text("utf-8").splitlines()
    libc = ctypes.CDLL(None, use_errno=True)
    if "MemoryDenyWriteExecute=yes" in lines:
        _done(libc.prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0))
    _allow_only(allowed(lines, groups()))
    os.execv(program, [program, *arguments])


def allowed(unit: list[str], known: Mapping[str, list[str]]) -> set[str]:
    """Name the system calls that the filters of a unit leave; systemd itself needs `execve`."""
    names = {"execve"}
    for line in unit:
        setting, _, value = line.partition("=")
        if setting == "SystemCallFilter":
            given = {call for name in value.lstrip("~").split() for call in calls(name, known)}
            names = names - given if value.startswith("~") else names | given
    return names


def calls(name: str, known: Mapping[str, list[str]]) -> Iterator[str]:
    """Take a group apart, and the groups in it."""
    if not name.startswith("@"):
        yield name
        return
    for each in known[name]:
        yield from calls(each, known)


def groups() -> dict[str, list[str]]:
    """Ask systemd what is in its groups of system calls."""
    said = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    found: dict[str, list[str]] = {}
    for line in said.stdout.splitlines():
        if line.startswith("@"):
            found[line.strip()] = members = []
        elif (name := line.strip()) and not name.startswith("#"):
            members.append(name)
    return found


def _allow_only(names: set[str]) -> None:
    """Load a filter, which holds for all that is started from here."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_EPERM)))
    for name in sorted(names):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number != _NO_SUCH_CALL:
            seccomp.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0)
    _done(seccomp.seccomp_load(context))


def _done(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno() or -result, "this cannot be forbidden here")


if __name__ == "__main__":
    main(*sys.argv[1:])
