"""Each wrong configuration of the folder is started for real and must be explained."""

from pathlib import Path

import pytest

from served import run

pytestmark = pytest.mark.e2e

FOLDER = Path(__file__).parent / "bad_configurations"
CASES = sorted(path.stem for path in FOLDER.glob("*.env"))


@pytest.mark.parametrize("case", CASES)
def test_ends_with_78_and_the_sentence_for(case: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes((FOLDER / f"{case}.env").read_bytes())

    ended = run("serve", cwd=tmp_path)

    assert ended.returncode == 78, ended.stderr
    assert ended.stderr == (FOLDER / f"{case}.expected").read_text()
    assert ended.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == [".env"], "nothing was begun"


def test_every_case_has_its_sentence() -> None:
    assert CASES
    assert sorted(path.stem for path in FOLDER.glob("*.expected")) == CASES
