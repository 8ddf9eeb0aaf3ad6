"""`mailtape` by the dozen: the program is loaded once, and each command is a fork of it.

For commands that end at once, of which loading is nearly all that they cost. Each has a process, a
folder, settings and an end of its own, as if it were started by itself.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from served import COMMAND_SECONDS, environment

_PROGRAM = f"""
import gc, json, os, signal, sys
import mailtape.commands.app
from mailtape.cli import main

gc.freeze()  # what is loaded is left alone, also when a fork ends

for line in sys.stdin:
    given = json.loads(line)
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    signal.alarm({COMMAND_SECONDS})
    for number, (path, how) in enumerate(given["files"]):
        os.dup2(os.open(path, how, 0o600), number)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environment"])
    sys.argv = ["mailtape", *given["arguments"]]
    main()
"""


class Forked:
    """The loaded program."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._said = [folder / "stdout", folder / "stderr"]

    def run(
        self, *arguments: str, cwd: Path, settings: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; see `served.run`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for path in self._said:
            path.write_bytes(b"")
        given = {
            "arguments": arguments,
            "cwd": str(cwd),
            "environment": environment(**(settings or {})),
            "files": [("/dev/null", 0), *((str(path), 1) for path in self._said)],
        }
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(
            arguments, code, *(path.read_text() for path in self._said)
        )


@contextmanager
def loaded() -> Iterator[Forked]:
    """Have the program loaded for as long as the context lasts."""
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield Forked(process, Path(folder))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(COMMAND_SECONDS)
