"""Whole Mailtape processes, as an operator starts them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAILTAPE = Path(sys.executable).with_name("mailtape")
START_SECONDS = 30
COMMAND_SECONDS = 60


def environment(**changes: str) -> dict[str, str]:
    """Make an environment with no settings but these."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | changes


def run(
    *arguments: str | Path,
    cwd: Path,
    stdin: str = "",
    settings: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [MAILTAPE, *arguments],
        cwd=cwd,
        env=environment(**(settings or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


@dataclass
class Served:
    """A running `mailtape serve`."""

    process: subprocess.Popen[str]
    http: str
    """`http://127.0.0.1:PORT`."""
    smtp: str
    """`127.0.0.1:PORT`."""
    said: str
    """What it printed until it was ready."""

    def stop(self) -> int:
        """Ask it to end and wait for that."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_SECONDS)


@contextmanager
def serving(folder: Path, log: Path, **settings: str) -> Iterator[Served]:
    """Serve a folder on free ports for as long as the context lasts."""
    command = [MAILTAPE, "serve", "--data", folder, "--http", "127.0.0.1:0", "--smtp"]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [*command, "127.0.0.1:0"],
            cwd=log.parent,
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("ready "):
                break
        else:
            raise AssertionError(f"ended before it was ready: {log.read_text()}")
        _, http, smtp, *_ = line.split()
        yield Served(process, http, smtp.removeprefix("smtp://"), said)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(START_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
