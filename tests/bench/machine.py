"""What the figures were measured on: a line that makes two tables comparable, or not."""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median


def described(folder: Path) -> str:
    """Date, cores, memory, system, Python, what a sync costs here, and what else runs."""
    return " · ".join(
        (
            datetime.now(UTC).date().isoformat(),
            f"{os.cpu_count()} cores {_first('/proc/cpuinfo', 'model name')}",
            f"{int(_first('/proc/meminfo', 'MemTotal').split()[0]) / 1e6:.0f} GB",
            f"Linux {platform.release()}",
            f"Python {platform.python_version()}",
            f"a synced write of 4 kB takes {_sync_seconds(folder) * 1000:.2f} ms",
            f"load average {os.getloadavg()[0]:.1f} before (0: the machine was ours alone)",
        )
    )


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0"


def _sync_seconds(folder: Path) -> float:
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(50):
            begin = time.monotonic()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - begin)
    return median(times)
