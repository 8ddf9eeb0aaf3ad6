"""What the bench reads from outside of programs: a sink's count, and processors' time."""

import subprocess
import sys
from pathlib import Path

from bench.programs import sunk
from processes import cpu_seconds

SPEND = (
    "import time, subprocess, sys\n"
    "while time.process_time() < float(sys.argv[1]): pass\n"
    "if sys.argv[2:]: subprocess.run([sys.executable, '-c', *sys.argv[2:]])\n"
    "print(flush=True); sys.stdin.read()"
)


def test_a_sink_has_taken_what_it_said_last(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    counts.write_bytes(b"".join(b"sess=1 quit=0 mesg=%d\r" % mail for mail in range(5_000)))

    assert sunk(counts) == 4_999


def test_a_sink_that_has_said_nothing_has_taken_nothing(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    counts.touch()

    assert sunk(counts) == 0


def test_the_time_of_children_that_ended_counts() -> None:
    child = "import time\nwhile time.process_time() < 0.3: pass"
    with subprocess.Popen(
        [sys.executable, "-c", SPEND, "0.2", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()

        assert 0.45 < cpu_seconds(process.pid) < 5
