"""What `make test` leaves to chance comes from the commit."""

import subprocess
from pathlib import Path

from served import environment

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def _said(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(GIT_CONFIG_GLOBAL="/dev/null", GIT_CEILING_DIRECTORIES=str(cwd.parent)),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def _seed(folder: Path) -> str:
    return _said("make", "-f", MAKEFILE, "--eval=seed: ; @echo $(SEED)", "seed", cwd=folder)


def test_a_commit_has_its_seed_and_without_git_there_is_none(tmp_path: Path) -> None:
    assert _seed(tmp_path) == ""
    _said("git", "init", "--quiet", cwd=tmp_path)
    assert _seed(tmp_path) == "", "nothing is committed yet"
    named = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for change in ("one", "another"):
        _said("git", *named, "commit", "--quiet", "--allow-empty", "-m", change, cwd=tmp_path)
        commit = _said("git", "rev-parse", "HEAD", cwd=tmp_path)
        assert _seed(tmp_path) == f"--randomly-seed={int(commit[:8], 16)}"


def test_the_tests_are_run_with_it() -> None:
    recipe = MAKEFILE.read_text().partition("\ntest:")[2].partition("\n\n")[0]

    assert "pytest tests $(SEED) " in recipe
