"""The units are what systemd takes them for, and let a process do little else than its work."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hardened
from hardened import UNITS
from served import MAILTAPE

TEMPLATES = sorted(path.name for path in UNITS.glob("*@.service"))
PROGRAM = "/opt/mailtape/.venv/bin/mailtape"
MOST_EXPOSED = 2.0
"""Of 10, where a unit without any of this has 9.6."""

pytestmark = pytest.mark.services


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert shutil.which("systemd-analyze"), "first: deploy/services up tools"
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the units that names the program where it is on this machine."""
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, str(MAILTAPE)))
    return tmp_path


def test_there_is_a_unit_for_every_process() -> None:
    assert [
        f"mailtape-{role}@.service" for role in ("api", "ingest", "policy", "worker")
    ] == TEMPLATES


@pytest.mark.parametrize("template", TEMPLATES)
def test_systemd_finds_nothing_to_say_about_a_unit(installed: Path, template: str) -> None:
    verified = analyze("verify", "--man=no", installed / template.replace("@", "@1"))

    assert (verified.returncode, verified.stdout) == (0, "")
    assert template.removesuffix("@.service") not in verified.stderr


def test_systemd_would_say_something_about_a_misspelt_line(installed: Path) -> None:
    unit = installed / TEMPLATES[0]
    unit.write_text(unit.read_text().replace("NoNewPrivileges=", "NoNewPrivilege="))

    verified = analyze("verify", "--man=no", installed / TEMPLATES[0].replace("@", "@1"))

    assert "NoNewPrivilege" in verified.stderr, "the control"


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_process_is_little_exposed(installed: Path, template: str) -> None:
    judged = analyze(
        "security",
        "--offline=true",
        f"--threshold={int(MOST_EXPOSED * 10)}",
        installed / template.replace("@", "@1"),
    )

    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    assert float(exposure) <= MOST_EXPOSED, judged.stdout


@pytest.mark.parametrize(
    "forbidden",
    [
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    ],
)
def test_what_a_unit_forbids_cannot_be_done(forbidden: str) -> None:
    """The control of every test whose fleet runs so."""
    unit = UNITS / TEMPLATES[0]
    for program in ([hardened.__file__, unit, sys.executable], []):
        done = subprocess.run(
            [sys.executable, *program, "-c", forbidden],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == bool(program)


def test_the_units_differ_in_what_they_run_and_may_use_alone() -> None:
    own = re.compile(r"^(#.*|Description=.*|ExecStart=.*|MemoryMax=.*|TasksMax=.*|Nice=.*|)$")
    shared = [
        [line for line in (UNITS / name).read_text().splitlines() if not own.match(line)]
        for name in TEMPLATES
    ]

    assert shared == [shared[0]] * len(TEMPLATES)
    assert "Type=notify" in shared[0]
    assert "TimeoutStopSec=40" in shared[0]
