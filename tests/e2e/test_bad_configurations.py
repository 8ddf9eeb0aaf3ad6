"""Each wrong configuration of the folder is started for real and must be explained."""

from pathlib import Path

import pytest

from forked import Forked
from served import run

pytestmark = pytest.mark.e2e

FOLDER = Path(__file__).parent / "bad_configurations"
CASES = sorted(path.stem for path in FOLDER.glob("*.env"))


@pytest.mark.parametrize("case", CASES)
def test_ends_with_78_and_the_sentence_for(case: str, tmp_path: Path, mailtape: Forked) -> None:
    (tmp_path / ".env").write_bytes((FOLDER / f"{case}.env").read_bytes())

    ended = mailtape.run("serve", cwd=tmp_path)

    assert ended.returncode == 78, ended.stderr
    assert ended.stderr == (FOLDER / f"{case}.expected").read_text()
    assert ended.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == [".env"], "nothing was begun"


@pytest.mark.parametrize("command", ["config check", "doctor", "migrate", "worker"])
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("password_of")])
def test_an_address_that_cannot_be_read_is_told_by_every_command(
    case: str, command: str, tmp_path: Path, mailtape: Forked
) -> None:
    (tmp_path / ".env").write_bytes((FOLDER / f"{case}.env").read_bytes())

    ended = mailtape.run(*command.split(), cwd=tmp_path)

    assert ended.returncode == 78
    assert ended.stderr == (FOLDER / f"{case}.expected").read_text()
    assert ended.stdout == ""


def test_an_address_that_only_its_driver_refuses_is_told_by_the_check(tmp_path: Path) -> None:
    settings = {"REDIS_URL": "redis://:hunter2@127.0.0.1/0?health_check_interval=often"}

    for command in ("config check", "doctor"):
        ended = run(*command.split(), cwd=tmp_path, settings=settings)

        assert ended.returncode == 78
        assert ended.stderr.startswith("REDIS_URL has a wrong value; ")
        assert "hunter2" not in ended.stdout + ended.stderr


def test_every_case_has_its_sentence() -> None:
    assert CASES
    assert sorted(path.stem for path in FOLDER.glob("*.expected")) == CASES
