"""What a running server asks of the kernel, in order, as strace sees it.

A call that another thread interrupts has two lines in strace's output; here it has a beginning and
an end, so that "before" can be said of calls that take their time.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYNCS = frozenset({"fsync", "fdatasync"})
WRITES = frozenset({"write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg"})
READS = frozenset({"read", "readv", "recvfrom", "recvmsg"})
_SHOWN = 70_000
"""Bytes of each buffer: the largest page that SQLite can have, whole."""

_CALL = re.compile(r"(\d+) +(\w+)\(\d+<([^>]*(?:->[^>]*)?)>(.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_UNFINISHED = "<unfinished ...>"


@dataclass(frozen=True, slots=True)
class Begin:
    """A thread asks the kernel for something."""

    call: str
    file: str
    """A path, or `TCP:[…]`."""
    text: str
    """The arguments as strace writes them; of a read nothing is known yet."""


@dataclass(frozen=True, slots=True)
class End:
    """The kernel has done it."""

    call: str
    file: str
    text: str


@contextmanager
def tracing(output: Path, *pids: int, syncs: str = "") -> Iterator[None]:
    """Trace processes and their threads, not their children, for as long as the context lasts.

    What becomes of their syncs meanwhile is said in strace's words, `delay_enter=` or `retval=`.
    """
    calls = ",".join(sorted(SYNCS | WRITES | READS))
    command = ["strace", "-f", "-yy", "-s", str(_SHOWN), "-e", f"trace={calls}"]
    if syncs:
        command += ["-e", f"inject={','.join(sorted(SYNCS))}:{syncs}"]
    for pid in pids:
        command += ["-p", str(pid)]
    tracer = subprocess.Popen([*command, "-o", str(output)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        for _ in pids:
            said = tracer.stderr.readline()
            assert "attached" in said, f"strace cannot trace: {said}"
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # lets go of the process and finishes its file
        tracer.communicate(timeout=30)


def events(output: Path) -> Iterator[Begin | End]:
    """Read a trace."""
    open_calls: dict[tuple[str, str], tuple[str, str]] = {}
    with output.open(errors="replace") as lines:
        for line in lines:
            if call := _CALL.match(line):
                pid, name, file, text = call.groups()
                yield Begin(name, file, text)
                if text.endswith(_UNFINISHED):
                    open_calls[pid, name] = (file, text)
                else:
                    yield End(name, file, text)
            elif resumed := _RESUMED.match(line):
                pid, name, rest = resumed.groups()
                if (pid, name) in open_calls:
                    file, text = open_calls.pop((pid, name))
                    yield End(name, file, text + rest)
