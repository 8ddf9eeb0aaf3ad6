"""What is in the repository works on any machine: no path and no mirror of one of them."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FOREIGN = [
    # Written so that this file does not match itself.
    re.compile(rb"(?<![\w.])/(?:work|root|home/[a-z]\w*|Users/\w+)/[\w.]"),
    re.compile(rb"\.\./sh[a]red\b"),
    re.compile(
        rb"\b(?:[\w-]+\.)*(?:py[p]i\.org|pythonh[o]sted\.org|npmj[s]\.org|d[e]bian\.org|golang\.or[g])\b"
    ),
]
ALLOWED = {
    "uv.lock",  # made by uv, which writes the index that it asked
    "deploy/ferretdb/go.mod",  # the names of Go's modules begin with their hosts
    "deploy/ferretdb/go.sum",
}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [name for name in listed.stdout.decode().split("\0") if name and name not in ALLOWED]


@pytest.mark.parametrize("pattern", FOREIGN)
def test_names_no_path_or_host_of_one_machine(pattern: re.Pattern[bytes]) -> None:
    files = [ROOT / name for name in tracked()]

    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in files
        if path.is_file()
        for match in pattern.finditer(path.read_bytes())
    ]

    assert found == []


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        (b"see /ro" + b"ot/notes.txt", FOREIGN[0]),
        (b"cd /ho" + b"me/ann/mailtape", FOREIGN[0]),
        (b"as ../sh" + b"ared/DESIGN.md says", FOREIGN[1]),
        (b"from https://files.pythonh" + b"osted.org/x", FOREIGN[2]),
    ],
)
def test_would_find_one(line: bytes, pattern: re.Pattern[bytes]) -> None:
    assert pattern.search(line)
