"""Each contract of import-linter is kept by the code, and breaks when it is violated."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONTRACTS = {each["id"]: each["name"] for each in PYPROJECT["tool"]["importlinter"]["contracts"]}
PACKAGES = [
    Path(each) for each in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
]

VIOLATIONS = [
    ("flow", "backend/mailtape/rows/usage.py", "mailtape.services.messages"),
    ("flow", "backend/mailtape/services/policy.py", "mailtape_policy.protocol"),
    ("pure", "backend/mailtape/domain/ids.py", "socket"),
    ("pure", "policy_daemon/mailtape_policy/protocol.py", "asyncio"),
    ("drivers", "backend/mailtape/services/messages.py", "sqlite3"),
    ("drivers", "policy_daemon/mailtape_policy/server.py", "sqlalchemy"),
    ("wiring", "backend/mailtape/api/deps.py", "mailtape.stores.embedded"),
    ("web", "backend/mailtape/services/messages.py", "fastapi"),
    ("web", "policy_daemon/mailtape_policy/server.py", "fastapi"),
    ("cycles", "backend/mailtape/domain/ids.py", "mailtape.domain.envelope"),
    ("cycles", "policy_daemon/mailtape_policy/protocol.py", "mailtape_policy.server"),
]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The packages and their contracts, free to be spoilt."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    sources = ":".join(str(folder / package.parent) for package in PACKAGES)
    return subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": sources},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_code_keeps_every_contract(copied: Path) -> None:
    answer = lint_imports(copied)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert all(f"{name} KEPT" in answer.stdout for name in CONTRACTS.values())


def test_every_contract_has_a_violation_that_breaks_it() -> None:
    assert {contract for contract, _, _ in VIOLATIONS} == CONTRACTS.keys()


@pytest.mark.parametrize(("contract", "file", "module"), VIOLATIONS)
def test_a_planted_import_breaks_its_contract(
    copied: Path, contract: str, file: str, module: str
) -> None:
    source = copied / file
    source.write_text(f"{source.read_text('utf-8')}\nimport {module}\n", "utf-8")

    answer = lint_imports(copied)

    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert f"{CONTRACTS[contract]} BROKEN" in answer.stdout
