"""Processes and ports of this machine, as a test sees them from outside (proc(5))."""

import contextlib
import os
import random
import socket
from pathlib import Path


def tree(root: int) -> list[int]:
    """List a process and all its descendants, the process first."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # The name stands in parentheses and may hold anything, then state and parent.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def is_running(pid: int) -> bool:
    """Whether a process lives; one that ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def resident_bytes(pid: int) -> int:
    """Tell how much memory of a process is resident; 0 once it has ended."""
    return _status_bytes(pid, "VmRSS:")


def peak_bytes(pid: int) -> int:
    """Tell the most that was ever resident of a process; 0 once it has ended."""
    return _status_bytes(pid, "VmHWM:")


def cpu_seconds(root: int) -> float:
    """Tell how long a process and its descendants have worked, those included that ended.

    In steps of the kernel's clock, mostly a hundredth of a second a process.
    """
    ticks = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):  # it ended meanwhile, and its parent has its time
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # user and system time, then that of the reaped
    return ticks / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Find loopback ports that nothing listens on.

    Below the range that the system takes clients' ports from: a port that is left for a moment, as
    by a server that is killed and started again, must not become some client's meanwhile.
    """
    first = 10_000
    local_range = Path("/proc/sys/net/ipv4/ip_local_port_range")
    last = int(local_range.read_text().split()[0]) if local_range.exists() else 32_768
    chance = random.Random(os.urandom(8))
    found: list[int] = []
    for port in chance.sample(range(first, max(last, first + 1000)), 500):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def _status_bytes(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
